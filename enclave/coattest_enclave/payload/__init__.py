"""What any payload in an enclave needs, and the auction uses; nothing here knows an auction.

``server.Server(nsm, light={"draw": draw}).serve(transport.listen("vsock:any:7000", BACKLOG))`` is a server.

- ``nsm.Nsm.attest``: a document over a nonce, user_data or public key. ``nsm.own_image``: this image's PCR0.
- ``kms.Kms.decrypt``: KMS Decrypt with a document of its own, over TLS that ends here. It is made of
  ``sigv4`` (signing), ``http_reply`` and ``cms`` (what KMS answers).
- ``server.Server``: frames in, frames out, connections and limits; ``alive`` for every payload, one heavy
  request at a time. ``turns.Turns.alone``: nobody else is served until a tick.
- ``transport``: listening on vsock, deadlines, and the tunnel through the parent's proxy.
- ``clock.Clock.read``: the NSM's time. ``entropy.require_source``: random numbers are the NSM's.
- ``trust.parse_trust``: the measured file that says whom this image trusts.
- ``hardening.close_process``: what a process gives up before it serves.

Beside itself it needs ``alive``, ``buffers``, ``canonical``, ``errors``, ``key_arn`` and ``wire`` of
``protocol``, cbor2, and for KMS cryptography: tests/test_layout.py holds that.
"""
