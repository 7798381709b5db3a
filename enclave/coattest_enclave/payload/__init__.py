"""What any payload in an enclave needs, and the auction uses; nothing here knows an auction.

- ``nsm.Nsm.attest``: a document over a nonce, user_data or public key. ``nsm.own_image``: this image's PCR0.
- ``kms.Kms.decrypt``: KMS Decrypt with a document of its own, over TLS that ends here. It is made of
  ``sigv4`` (signing), ``http_reply`` and ``cms`` (what KMS answers).
- ``transport``: listening on vsock, deadlines, and the tunnel through the parent's proxy.
- ``clock.Clock.read``: the NSM's time. ``entropy.require_source``: random numbers are the NSM's.
- ``trust.parse_trust``: the measured file that says whom this image trusts.
- ``hardening.close_process``: what a process gives up before it serves.

Beside itself it needs ``buffers``, ``errors``, ``key_arn``, ``wire`` and ``canonical`` of ``protocol``,
cbor2 and cryptography: tests/test_layout.py holds that.
"""
