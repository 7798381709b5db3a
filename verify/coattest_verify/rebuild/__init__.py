"""A member's own work: compare a rebuild with the claim, sign the answer, and measure images again.

``answer`` makes and signs statements, ``inputs`` checks every pin of the lock against its archive.
"""
