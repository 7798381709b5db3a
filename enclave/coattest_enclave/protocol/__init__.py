"""The messages that buyers, parent and enclave share (docs/protocol.md).

``messages`` has them all: manifest, bid, seal, result, receipt. ``wire`` has the frames that carry them,
``canonical`` and ``cose`` the encodings below. Nothing here imports anything of ours from outside.
"""
