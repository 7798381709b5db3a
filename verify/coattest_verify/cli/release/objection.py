"""``verify release withdraw`` and ``verify release excuse``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_verify.cli.options import (
    SigningKey,
    quorum_options,
    read_once,
    release_option,
    signing_options,
)
from coattest_verify.cli.words import claim_rows
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.memory import Roots, parse_quorum_root
from coattest_verify.quorum.releases import put_vote
from coattest_verify.quorum.statements.signed import SignedStatement, read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import EXCUSE, WITHDRAW, Vote, make_vote
from coattest_verify.rebuild.answer import Ask, read_ask
from coattest_verify.signatures.keys import Signer


@click.command("withdraw")
@signing_options
@click.option("--reason", required=True, help="One line: why the dissent was wrong.")
@expect_option
@quorum_options
@release_option
@json_option
def withdraw_dissent_command(
    *,
    signing: SigningKey,
    reason: str,
    expect: str | None,
    attestations: Path,
    root: bytes | None,
    release: str | None,
    as_json: bool,
) -> None:
    """Take back a dissent that you signed, with the key that signed it.

    It counts once it has an entry in the agreed log, and you have signed another statement later (verify
    sign-pcrs). The dissent stays in the folder. --expect is the digest of what the dissent signs, as the
    command shows it; where you signed several it says which one.
    """
    pinned = Roots().pinned(root)
    with read_once(attestations) as evidence:
        ask = read_ask(evidence, attestations, release)
        signer = signing.signer(evidence, ask.members)
        mine = [item for item in _dissents(ask, signing.member) if item.keys == {signer.public}]
    chosen = [item for item in mine if expect in {None, item.signed_sha256}] or mine
    if not mine:
        raise UsageError(
            f"{signing.member} has no dissent by this key",
            where=str(attestations),
            hint="a dissent is taken back by the key that signed it; of a lost key, change members excuse it",
            code="already-undone",
        )
    if len(chosen) > 1:
        raise UsageError(f"{signing.member} signed {len(chosen)} dissents", hint=_which(chosen))
    (dissent,) = chosen
    vote = make_vote(
        WITHDRAW,
        signing.member,
        root=pinned,
        claim=ask.claim,
        note=reason,
        now=utc_now(),
        undoes=dissent.signed_sha256,
    )
    confirm_signing(
        [
            ("signs", f"{signing.member} takes its dissent back"),
            ("reason", vote.note),
            *claim_rows(ask.claim),
            ("dissented", f"{utc(dissent.statement.time)}: {dissent.statement.reason or 'no reason given'}"),
        ],
        subject="dissent",
        digest=dissent.signed_sha256,
        expected=expect,
    )
    _write(attestations, vote, signer, as_json)


@click.command("excuse")
@signing_options
@click.option("--whom", "excused", required=True, metavar="NAME", help="The member that is excused.")
@click.option("--dissent", metavar="sha256:HEX", help="The dissent that is excused; without it, silence.")
@click.option("--reason", required=True, help="One line: why it does not stand in the way.")
@expect_option
@quorum_options
@release_option
@json_option
def excuse_command(
    *,
    signing: SigningKey,
    excused: str,
    dissent: str | None,
    reason: str,
    expect: str | None,
    attestations: Path,
    root: bytes | None,
    release: str | None,
    as_json: bool,
) -> None:
    """Excuse a member's silence on a release, or a dissent of it, together with other members.

    It counts once as many members as it takes to change the quorum (change) have signed so, each with an
    entry in the agreed log. A dissent that is shown later counts in spite of excused silence. --expect is the
    SHA-256 of the claim.
    """
    pinned = Roots().pinned(root)
    digest = parse_quorum_root(dissent).hex() if dissent is not None else None
    with read_once(attestations) as evidence:
        ask = read_ask(evidence, attestations, release)
        signer = signing.signer(evidence, ask.members)
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
    if digest is not None and not known:
        raise UsageError(
            f"{excused} has no such dissent here", where=str(attestations), code="already-undone"
        )
    vote = make_vote(
        EXCUSE,
        signing.member,
        root=pinned,
        claim=ask.claim,
        note=reason,
        now=utc_now(),
        undoes=digest,
        excused=excused,
    )
    what = f"the dissent sha256:{digest}" if digest else "silence"
    confirm_signing(
        [
            ("signs", f"{signing.member} EXCUSES {excused}: {what} is not to stand in the way"),
            ("reason", vote.note),
            *claim_rows(ask.claim),
            *[("dissented", item.statement.reason or "no reason given") for item in known],
        ],
        subject="claim",
        digest=ask.claim.sha256,
        expected=expect,
    )
    _write(attestations, vote, signer, as_json)


def _dissents(ask: Ask, member: str) -> list[SignedStatement]:
    return [
        item
        for item in read_statements(ask.files, ask.members)[0]
        if (item.statement.member, item.statement.outcome) == (member, DISSENT)
    ]


def _which(dissents: list[SignedStatement]) -> str:
    found = ", ".join(f"sha256:{item.signed_sha256} ({utc(item.statement.time)})" for item in dissents)
    return f"say which one: {found}"


def _write(attestations: Path, vote: Vote, signer: Signer, as_json: bool) -> None:
    path = put_vote(attestations, vote, signer)
    if as_json:
        emit_json({"release": vote.release, "sha256": vote.signed_sha256, "file": str(path)})
    else:
        err().print(f"{path}: signed; it counts once it is in the agreed log")
