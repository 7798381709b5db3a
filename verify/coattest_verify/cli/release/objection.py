"""``verify release withdraw`` and ``verify release excuse``."""

from __future__ import annotations

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import err
from coattest_verify.cli.options import read_once, release_option
from coattest_verify.cli.release.voting import VoteRequest, vote_options
from coattest_verify.cli.words import claim_rows
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.memory import parse_digest
from coattest_verify.quorum.releases import put_vote
from coattest_verify.quorum.statements.signed import SignedStatement, read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import EXCUSE, WITHDRAW, Vote
from coattest_verify.rebuild.answer import Ask, read_ask
from coattest_verify.signatures.keys import Signer


@click.command("withdraw")
@vote_options("why the dissent was wrong")
@release_option
def withdraw_dissent_command(*, request: VoteRequest, release: str | None) -> None:
    """Take back a dissent that you signed, with the key that signed it.

    It counts once it has an entry in the agreed log, and you have signed another statement later (verify
    sign-pcrs). The dissent stays in the folder. --expect is the digest of what the dissent signs, as the
    command shows it; where you signed several it says which one.
    """
    member = request.signing.member
    with read_once(request.attestations) as evidence:
        ask = read_ask(evidence, request.attestations, release)
        signer = request.signing.signer(evidence, ask.members)
        mine = [item for item in _dissents(ask, member) if item.keys == {signer.public}]
    chosen = [item for item in mine if request.expect in {None, item.signed_sha256}] or mine
    if not mine:
        raise UsageError(
            f"{member} has no dissent by this key",
            where=str(request.attestations),
            hint="a dissent is taken back by the key that signed it; of a lost key, change members excuse it",
            code="already-undone",
        )
    if len(chosen) > 1:
        raise UsageError(f"{member} signed {len(chosen)} dissents", hint=_which(chosen))
    (dissent,) = chosen
    vote = request.vote(WITHDRAW, ask.claim, undoes=dissent.signed_sha256)
    said = f"{utc(dissent.statement.time)}: {dissent.statement.reason or 'no reason given'}"
    request.confirm(
        "takes its dissent back",
        vote,
        [*claim_rows(ask.claim), ("dissented", said)],
        subject="dissent",
        digest=dissent.signed_sha256,
    )
    _write(request, vote, signer)


@click.command("excuse")
@click.option("--whom", "excused", required=True, metavar="NAME", help="The member that is excused.")
@click.option(
    "--dissent",
    type=parse_digest("--dissent"),
    metavar="sha256:HEX",
    help="The dissent that is excused; without it, silence.",
)
@vote_options("why it does not stand in the way")
@release_option
def excuse_command(*, request: VoteRequest, excused: str, dissent: bytes | None, release: str | None) -> None:
    """Excuse a member's silence on a release, or a dissent of it, together with other members.

    It counts once as many members as it takes to change the quorum (change) have signed so, each with an
    entry in the agreed log. A dissent that is shown later counts in spite of excused silence. --expect is the
    SHA-256 of the claim.
    """
    digest = dissent.hex() if dissent else None
    with read_once(request.attestations) as evidence:
        ask = read_ask(evidence, request.attestations, release)
        signer = request.signing.signer(evidence, ask.members)
        if ask.members.member(excused) is None:
            raise UsageError(
                f"{excused!r} is not a member",
                hint=f"one of {', '.join(ask.members.names)}",
                code="not-a-member",
            )
        there = _dissents(ask, excused)
    known = [item for item in there if item.signed_sha256 == digest]
    if there and not known:
        raise UsageError(f"{excused} has dissented", hint=_which(there), code="exists")
    if digest and not known:
        raise UsageError(
            f"{excused} has no such dissent here", where=str(request.attestations), code="already-undone"
        )
    vote = request.vote(EXCUSE, ask.claim, undoes=digest, excused=excused)
    what = f"the dissent sha256:{digest}" if digest else "silence"
    said = [("dissented", item.statement.reason or "no reason given") for item in known]
    request.confirm(
        f"EXCUSES {excused}: {what} is not to stand in the way",
        vote,
        [*claim_rows(ask.claim), *said],
        subject="claim",
        digest=ask.claim.sha256,
    )
    _write(request, vote, signer)


def _dissents(ask: Ask, member: str) -> list[SignedStatement]:
    return [
        item
        for item in read_statements(ask.files, ask.members)[0]
        if (item.statement.member, item.statement.outcome) == (member, DISSENT)
    ]


def _which(dissents: list[SignedStatement]) -> str:
    found = ", ".join(f"sha256:{item.signed_sha256} ({utc(item.statement.time)})" for item in dissents)
    return f"say which one: {found}"


def _write(request: VoteRequest, vote: Vote, signer: Signer) -> None:
    path = put_vote(request.attestations, vote, signer)
    if request.as_json:
        emit_json({"release": vote.release, "sha256": vote.signed_sha256, "file": str(path)})
    else:
        err().print(f"{path}: signed; it counts once it is in the agreed log")
