"""The messages that buyers, parent and enclave share (docs/protocol.md).

``manifest``, ``seal``, ``binding`` (what a bid is bound to) and ``receipt``; ``wire`` has the frames that
carry them, ``canonical`` and ``cose`` the encodings below. What only buyers and parent need of them lies in
``coattest_verify.auction.messages``. Nothing here imports anything of ours from outside.
"""
