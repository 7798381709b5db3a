"""``verify release revoke`` and ``verify release unrevoke``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Evidence, read_bounded
from coattest.jsontext import emit_json
from coattest.shell import err, utc_now
from coattest_verify.cli.options import FILE, read_once, release_option
from coattest_verify.cli.release.voting import VoteRequest, vote_options
from coattest_verify.cli.words import Rows, claim_rows
from coattest_verify.quorum.bundle import MAX_BUNDLE, read_bundle
from coattest_verify.quorum.members.chain import follow
from coattest_verify.quorum.members.file import MembersFile, utc
from coattest_verify.quorum.releases import (
    ReleaseFiles,
    every_release,
    put_vote,
    release_files,
    release_place,
)
from coattest_verify.quorum.statements.claim import CLAIM_FILE, Claimed
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import AGREE
from coattest_verify.quorum.statements.votes import (
    REVOKE,
    UNREVOKE,
    Vote,
    read_votes,
    without_undone,
)
from coattest_verify.rebuild.answer import read_claim, read_members
from coattest_verify.signatures.keys import Signer


@click.command("revoke")
@vote_options("why the release must not be used")
@click.option(
    "--claim",
    "older",
    type=FILE,
    help="The claim of a release that is not in the folder: its claim.json, or its proof bundle.",
)
@release_option
def revoke_command(*, request: VoteRequest, older: Path | None, release: str | None) -> None:
    """Sign that a release must not be used, such as for a known vulnerability.

    Shows the release, its image and who agreed to it. Every command that needs a decision refuses as soon as
    as many members as quorum.toml says (one, unless it says otherwise) have signed so. --expect is the
    SHA-256 of the claim. verify release unrevoke takes it back.
    """
    attestations = request.attestations
    with read_once(attestations) as evidence:
        members = read_members(evidence, attestations)
        claim, agreed = _target(evidence, request, members, older, release)
        signer = request.signing.signer(evidence, members)
        if release is not None and claim.release != release:
            raise FoundFalse(
                f"the claim is of release {claim.release}, not {release}",
                where=str(older or attestations / release_place(release, CLAIM_FILE)),
                hint="--claim FILE is the claim or the proof bundle of an older release",
                code="wrong-release",
            )
        vote = request.vote(REVOKE, claim)
        undone = {item.signed_sha256 for item in without_undone(_votes(evidence, members))[1]}
    request.confirm(
        "REVOKES the release: nobody is to use it any more",
        vote,
        [*claim_rows(claim), *(agreed or [("agreed", "nobody, as far as these files show")])],
        subject="claim",
        digest=claim.sha256,
    )
    if vote.signed_sha256 in undone:
        raise UsageError(
            "this very revocation, of the same second, was taken back", hint="run it again", code="exists"
        )
    _write(request, vote, signer)


@click.command("unrevoke")
@vote_options("why the release may be used after all")
def unrevoke_command(*, request: VoteRequest) -> None:
    """Take back a revocation: your own, with the key that signed it, or another's, with other members.

    It undoes that one revocation and no later one. --expect is the digest of what the revocation signs, as
    the command shows it; where you signed several it says which one. A revocation that another member or key
    signed is undone when as many members as change the quorum have signed so, in the agreed log.
    """
    member, expect = request.signing.member, request.expect
    with read_once(request.attestations) as evidence:
        members = read_members(evidence, request.attestations)
        signer = request.signing.signer(evidence, members)
        votes = _votes(evidence, members)
    mine = _mine(votes, member, request.root, signer) or [
        vote
        for vote in without_undone(votes)[0]
        if (vote.kind, vote.root, vote.signed_sha256) == (REVOKE, request.root.hex(), expect)
    ]
    chosen = [vote for vote in mine if expect in {None, vote.signed_sha256}] or mine
    if not mine:
        raise UsageError(
            f"{member} has no revocation in force by this key",
            where=str(request.attestations),
            hint="a revocation is taken back by the key that signed it; --expect names another one's, which"
            " change members take back together",
            code="already-undone",
        )
    if len(chosen) > 1:
        raise UsageError(
            f"{member} signed {len(chosen)} revocations",
            hint="--expect says which: "
            + ", ".join(f"sha256:{vote.signed_sha256} ({vote.release}, {vote.time})" for vote in chosen),
        )
    (revocation,) = chosen
    vote = request.vote(UNREVOKE, revocation, undoes=revocation.signed_sha256)
    whose = "its" if revocation.member == member else f"{revocation.member}'s"
    request.confirm(
        f"takes {whose} revocation back: the release may be used again",
        vote,
        [
            ("release", revocation.release),
            ("source tree", revocation.tree_sha256),
            ("lock", revocation.lock_sha256),
            ("revoked", f"{revocation.time}: {revocation.note}"),
        ],
        subject="revocation",
        digest=revocation.signed_sha256,
    )
    _write(request, vote, signer)


def _target(
    evidence: Evidence, request: VoteRequest, members: MembersFile, older: Path | None, release: str | None
) -> tuple[Claimed, Rows]:
    """The claim to revoke, read once, and who agreed to it according to the files that came with it."""
    if older is None:
        claim, files = read_claim(evidence, request.attestations, release)
        return claim, _agreed(files, members, claim)
    try:
        data = read_bounded(older, MAX_BUNDLE)
        try:
            claim = Claimed.decode(data)
        except Rejected:
            bundle = read_bundle(data)
            files = release_files(bundle.files, release)
            claim = files.claim()
            then = follow(bundle.files, request.root, seen=None, now=min(bundle.made, utc_now())).current
            return claim, _agreed(files, then, claim)
    except FileNotFoundError:
        raise UsageError("no such file", where=str(older)) from None
    except Rejected as error:
        raise UsageError(
            error.what,
            where=str(older),
            hint="a claim.json, or a proof bundle of this quorum",
            code="bad-claim",
        ) from None
    return claim, _agreed(ReleaseFiles(evidence, claim.release), members, claim)


def _agreed(evidence: Evidence, members: MembersFile, claim: Claimed) -> Rows:
    target = (claim.release, claim.architecture, claim.tree_sha256, claim.lock_sha256)
    agreed = {
        (item.statement.member, utc(item.statement.time))
        for item in read_statements(evidence, members)[0]
        if item.statement.outcome == AGREE and item.statement.target == target
    }
    return [("agreed", f"{member} at {time}") for member, time in sorted(agreed)]


def _votes(evidence: Evidence, members: MembersFile) -> list[Vote]:
    """Every good vote on any release."""
    found = (vote for files in every_release(evidence) for vote in read_votes(files, members)[0])
    return list(dict.fromkeys(found))


def _mine(votes: list[Vote], member: str, root: bytes, signer: Signer) -> list[Vote]:
    """The member's revocations in force that its key alone signed, the oldest first."""
    return sorted(
        (
            vote
            for vote in without_undone(votes)[0]
            if (vote.kind, vote.member, vote.root) == (REVOKE, member, root.hex())
            and vote.keys == {signer.public}
        ),
        key=lambda vote: (vote.time, vote.signed_sha256),
    )


def _write(request: VoteRequest, vote: Vote, signer: Signer) -> None:
    path = put_vote(request.attestations, vote, signer)
    if request.as_json:
        emit_json(
            {
                "revoked": vote.kind == REVOKE,
                "release": vote.release,
                "sha256": vote.signed_sha256,
                "file": str(path),
            }
        )
    else:
        err().print(f"{path}: signed, sha256:{vote.signed_sha256}")
        err().print("'verify log append' puts it into the log")
