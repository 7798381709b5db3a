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

from coattest_verify.quorum.authority import Authority, authority_from
from coattest_verify.quorum.decision import Decision, Outcome, decide, decide_from
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.tally import Answer

__all__ = [
    "Answer",
    "Authority",
    "Decision",
    "MembersFile",
    "Outcome",
    "authority_from",
    "decide",
    "decide_from",
]
