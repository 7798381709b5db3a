"""``verify sign-pcrs``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_build.ownwork import COMPARED, OwnWork
from coattest_verify.cli.options import (
    SigningKey,
    attestations_option,
    read_once,
    release_option,
    report_options,
    signing_options,
)
from coattest_verify.cli.words import published_rows, statement_rows
from coattest_verify.quorum.members.chain import claimed_root
from coattest_verify.quorum.statements.salt import opening
from coattest_verify.rebuild.answer import answer, read_ask, read_report, remeasure, sign_answer
from coattest_verify.rebuild.hosts import host_name
from coattest_verify.signatures.journal import SignatureJournal


@click.command("sign-pcrs")
@signing_options
@report_options
@click.option("--dissent", is_flag=True, help="Sign that the rebuild does not match the claim.")
@click.option("--could-not-build", is_flag=True, help="Sign that the claim could not be rebuilt at all.")
@click.option(
    "--host",
    help="This machine's name in the statement (default: a pseudonym that changes every round).",
)
@click.option("--reason", help="One line for the others, with --dissent or --could-not-build.")
@expect_option
@attestations_option
@release_option
@json_option
def sign_pcrs_command(
    *,
    signing: SigningKey,
    rebuilt: Path,
    vouched: Path | None,
    dissent: bool,
    could_not_build: bool,
    host: str | None,
    reason: str | None,
    expect: str | None,
    attestations: Path,
    release: str | None,
    as_json: bool,
) -> None:
    """Measure again what this machine rebuilt, and sign the result into the attestations.

    Writes rebuild.MEMBER.intoto.json and, for stock in-toto, rebuild.KEYID8.link into the release's folder.
    A rebuild that differs from the claim is refused unless --dissent signs exactly that. --expect is the
    SHA-256 of the claim; right after a verify rebuild against the same claim it is not needed.
    """
    if dissent and could_not_build:
        raise UsageError("--dissent and --could-not-build exclude each other")
    if reason and not (dissent or could_not_build):
        raise UsageError("--reason needs --dissent or --could-not-build")
    if could_not_build:
        refuse_ignored(("rebuilt", "vouched"), "with --could-not-build")
    own = OwnWork()
    with read_once(attestations) as evidence:
        ask = read_ask(evidence, attestations, release)
        signer = signing.signer(evidence, ask.members)
        built = secret = None
        if not could_not_build:
            built = read_report(rebuilt, own, vouched)
            remeasure(built)
            secret = opening(signing.member, claimed_root(evidence, ask.members), built.report)
        statement = answer(
            ask,
            built.report if built else None,
            member=signing.member,
            dissent=dissent,
            now=utc_now(),
            reason=reason,
            host=host_name(host, ask.members),
            salt=secret.salt if secret else None,
        )
        confirm_signing(
            [*statement_rows(statement), *published_rows(ask.published)],
            subject="claim",
            digest=ask.claim.sha256,
            expected=expect,
            looked_at=built is not None and own.made(COMPARED, built.sha256, ask.claim.sha256),
        )
        paths = sign_answer(
            attestations, ask.files, statement, ask.members, signer, journal=SignatureJournal()
        )
    if as_json:
        emit_json(
            {
                "member": signing.member,
                "outcome": statement.outcome,
                "reason": statement.reason,
                "host": statement.host,
                "release": statement.release,
                "profiles": {
                    profile: {f"PCR{index}": value for index, value in enumerate(result.pcrs)}
                    for profile, result in statement.profiles.items()
                },
                "quorum": {"version": statement.quorum_version, "sha256": statement.quorum_sha256},
                "files": [str(path) for path in paths],
            }
        )
        return
    for path in paths:
        err().print(f"{path}: {statement.outcome}, signed by {signing.member}")
