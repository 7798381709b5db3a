"""``verify sign-pcrs``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.options import FOLDER, SigningKey, attestations_option, signing_options
from coattest_verify.quorum.statements.salt import SALT_FILE, read_secret
from coattest_verify.rebuild.answer import answer, read_ask, read_report, remeasure, sign_answer
from coattest_verify.rebuild.hosts import host_name


@click.command("sign-pcrs")
@signing_options
@click.option(
    "--rebuild", "rebuilt", type=FOLDER, default=Path("out"), show_default=True, help="verify rebuild's OUT."
)
@click.option("--dissent", is_flag=True, help="Sign that the rebuild does not match the claim.")
@click.option("--could-not-build", is_flag=True, help="Sign that the claim could not be rebuilt at all.")
@click.option(
    "--host",
    help="This machine's name in the statement (default: a pseudonym that changes every round).",
)
@click.option("--reason", help="One line for the others, with --dissent or --could-not-build.")
@attestations_option
@json_option
def sign_pcrs_command(
    *,
    signing: SigningKey,
    rebuilt: Path,
    dissent: bool,
    could_not_build: bool,
    host: str | None,
    reason: str | None,
    attestations: Path,
    as_json: bool,
) -> None:
    """Measure again what this machine rebuilt, and sign the result into the attestations.

    Writes rebuild.MEMBER.intoto.json and, for stock in-toto, rebuild.KEYID8.link. A rebuild that differs
    from the claim is refused unless --dissent signs exactly that.
    """
    if dissent and could_not_build:
        raise UsageError("--dissent and --could-not-build exclude each other")
    if reason and not (dissent or could_not_build):
        raise UsageError("--reason goes with --dissent or --could-not-build")
    if could_not_build:
        refuse_ignored(("rebuilt",), "with --could-not-build")
    ask = read_ask(attestations)
    signer = signing.signer(attestations)
    report = secret = None
    if not could_not_build:
        report = read_report(rebuilt)
        remeasure(rebuilt, report)
        secret = read_secret(rebuilt, signing.member, ask.members)
        if ask.members.commitments and secret is None and not dissent:
            raise UsageError(
                "quorum.toml requires a commitment before a result, and this rebuild has none",
                where=str(rebuilt / SALT_FILE),
                hint="verify commit makes it, before the claim is published",
                code="not-committed",
            )
    statement = answer(
        ask,
        report,
        member=signing.member,
        dissent=dissent,
        now=utc_now(),
        reason=reason,
        host=host_name(host, ask.members),
        salt=secret.salt if secret else None,
    )
    paths = sign_answer(attestations, statement, ask.members, signer)
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
        err().print(f"{path}: {statement.outcome}, signed by {signing.member}", markup=False)
