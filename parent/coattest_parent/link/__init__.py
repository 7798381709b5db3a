"""How a parent reaches its enclave, KMS and S3, and how a service of the parent reports and stops.

``channels`` has addresses and sockets, ``enclave`` the conversation with an enclave, ``aws`` the clients,
``proxy`` the enclave's way to KMS; ``telemetry``, ``status``, ``stop``, ``retry`` and ``loop`` are what a
service is made of.
"""
