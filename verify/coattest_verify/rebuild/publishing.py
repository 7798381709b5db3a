"""A member publishes a claim: it built exactly that, and says from which commit and tag."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Evidence
from coattest_verify.quorum.log.fold import LogState
from coattest_verify.quorum.log.publication import publication
from coattest_verify.quorum.releases import ReleaseFiles, put_file, put_vote
from coattest_verify.quorum.statements.claim import CLAIM_FILE, MAX_CLAIM, WORD, Claimed
from coattest_verify.quorum.statements.votes import PUBLISH, Vote, make_vote, read_votes
from coattest_verify.rebuild.answer import OwnReport, refuse_dirty
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.signatures.keys import Signer

NEVER_REPLACED = "a claim is never replaced: publish this one under another release's name"


def sign_publication(
    attestations: Path,
    evidence: Evidence,
    data: bytes,
    own: OwnReport,
    *,
    member: str,
    signer: Signer,
    root: bytes,
    state: LogState,
    tag: str | None,
    now: datetime,
    journal: SignatureJournal,
    approve: Callable[[Claimed, Vote], None],
) -> Path | None:
    """Write the claim ``data`` and this member's publication of it; its path, None where it is published.

    ``tag`` is by default ``v`` and the release's name. ``approve`` gets what would be signed, and raises to
    stop it. Raises FoundFalse (``mismatch``) unless ``own`` is a build of exactly that, (``name-taken``) for
    another claim of the name, and UsageError (``exists``) for another one in the folder.
    """
    claim = Claimed.decode(data)
    files = ReleaseFiles(evidence, claim.release)
    place = files.place(CLAIM_FILE)
    try:
        earlier = files.read(CLAIM_FILE, MAX_CLAIM)
    except Rejected as error:
        if error.code != "absent":
            raise
        earlier = data
    if earlier != data:
        raise UsageError(
            "a different claim is already there", where=place, hint=NEVER_REPLACED, code="exists"
        )
    refuse_dirty(own.report)
    differences = own.report.differences(claim)
    if differences:
        raise FoundFalse(
            f"this machine's build is not what is claimed: {differences[0].detail}",
            where=place,
            hint="publish what you built",
            code="mismatch",
            findings=differences,
        )
    named = tag or f"v{claim.release}"
    if not WORD.fullmatch(named):
        raise UsageError(f"the tag {named[:80]} is too long", hint="--tag names one of 64 characters at most")
    votes = read_votes(files, state.versions[-1])[0]
    vote = make_vote(
        PUBLISH,
        member,
        root=root,
        claim=claim,
        note="publishes this claim",
        now=now,
        published=(claim.sha256, own.report.built.commit, named),
    )
    published = publication(claim, votes, state, root)
    wanted = (vote.commit, vote.tag)
    # What this member signed already says nothing new a second time, whoever was first.
    mine = {
        (each.commit, each.tag)
        for each in votes
        if (each.kind, each.member, each.root, each.release, each.claim)
        == (PUBLISH, member, root.hex(), claim.release, claim.sha256)
    }
    if not published.finding and wanted in {(published.commit, published.tag), *mine}:
        return None
    finding = publication(claim, [*votes, vote], state, root).finding
    if finding is not None:
        raise FoundFalse(finding.detail, where=place, hint=NEVER_REPLACED, code="name-taken")
    approve(claim, vote)
    slot = {"kind": "claim", "member": member, "root": root.hex(), "release": claim.release}
    journal.record(slot, claim.sha256, remedy=NEVER_REPLACED)
    put_file(attestations, place, data)
    return put_vote(attestations, vote, signer)
