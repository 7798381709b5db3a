"""Deployment: success is a live document of the running enclave that verifies against the decision.

``live`` asks for that document and checks it. ``local`` deploys to the software host, ``stack`` to AWS, and
``smoke`` checks whether an image works on this machine at all.
"""
