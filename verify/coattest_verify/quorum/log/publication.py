"""Whose claim a release's ``claim.json`` is: the one that a member signed, and that the log had first.

A publication is a vote (``statements.votes``) by which a member says: this claim is what the commit and tag
build to. Rules:

1. The first publication of a release's name in the agreed log owns the name for good, whoever leaves later.
2. Before that, every publication here by a present member has to be of one claim, commit and tag.
3. Others may publish the owner's claim from another commit, which then is one that members may have built:
   who was first cannot keep everybody from answering by a commit that nobody has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coattest.findings import Finding
from coattest_verify.quorum.log.fold import LogState
from coattest_verify.quorum.releases import release_place
from coattest_verify.quorum.statements.claim import CLAIM_FILE, Claimed
from coattest_verify.quorum.statements.votes import PUBLISH, Vote


@dataclass(frozen=True, slots=True)
class Published:
    """Who published a claim first, for which commit and tag; or why it does not count.

    ``commits`` are those that any member published the same claim for.
    """

    by: str = ""
    commit: str | None = None
    tag: str = ""
    commits: frozenset[str] = frozenset()
    finding: Finding | None = None


def publication(claim: Claimed, votes: Iterable[Vote], state: LogState, root: bytes) -> Published:
    """The publication of ``claim``, by the rules above. ``votes`` are present members'."""
    place = release_place(claim.release, CLAIM_FILE)
    made = [
        vote for vote in votes if (vote.kind, vote.root, vote.release) == (PUBLISH, root.hex(), claim.release)
    ]
    commits = {vote.commit for vote in made if vote.claim == claim.sha256 and vote.commit}
    for entry in state.entries:
        facts = entry.facts
        if entry.kind == PUBLISH and facts.get("release") == claim.release:
            if facts.get("claim") == claim.sha256:
                commit = facts.get("commit")
                known = frozenset(commits | ({commit} if commit else set()))
                return Published(entry.member or "", commit, facts.get("tag", ""), known)
            text = (
                f"the name belongs to claim sha256:{facts.get('claim')}, which {entry.member} published first"
            )
            return Published(finding=Finding("name-taken", place, text))
    first = min(
        (vote for vote in made if vote.claim == claim.sha256), key=lambda vote: vote.sha256, default=None
    )
    if first is None:
        text = "no member signed that it publishes this claim (verify release publish)"
        return Published(finding=Finding("claim-unsigned", place, text))
    if len({(vote.claim, vote.commit, vote.tag) for vote in made}) > 1:
        text = "members published different claims under this name, and the agreed log has none of them yet"
        return Published(finding=Finding("claim-disputed", place, text))
    return Published(first.member, first.commit, first.tag, frozenset(commits))
