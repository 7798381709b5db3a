"""The quorum: who the members are, what they signed, and what that decides.

``decision.decide`` recomputes the decision from a folder and a pinned root; ``authority`` adds the members
file that it was made under. Below them:

- ``tally``, ``diversity``, ``commitments``: which answers count
- ``log``: the Merkle tree of everything that was answered; ``cosigning`` writes it
- ``statements``: the claim, signed rebuilds and votes, parsed strictly
- ``members``: the members file and its chain of versions from the pinned root; ``signing`` signs a version

    outcome = decide(Path("attestations"), root=root, profile="aws", now=now)
    pcr0 = outcome.require().pcrs[0]
"""
