"""``verify sign-pcrs``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.options import FOLDER, attestations_option, signer_from, signing_options
from coattest_verify.quorum.statements.salt import SALT_FILE, kept
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
    help="This machine's name in the statement (else a pseudonym of it that is of use in this round only).",
)
@click.option("--reason", help="One line for the others, with --dissent or --could-not-build.")
@attestations_option
@json_option
def sign_pcrs(
    *,
    key: Path,
    passphrase_file: Path | None,
    member: str,
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
    from the claim is refused unless --dissent says that this is the message.
    """
    if dissent and could_not_build:
        raise UsageError("--dissent and --could-not-build exclude each other")
    if reason and not (dissent or could_not_build):
        raise UsageError("--reason goes with --dissent or --could-not-build")
    ask = read_ask(attestations)
    signer = signer_from(key, passphrase_file, attestations, member)
    report = opening = None
    if not could_not_build:
        report = read_report(rebuilt)
        remeasure(rebuilt, report)
        opening = kept(rebuilt, member, ask.policy)
        if ask.policy.commitments and opening is None and not dissent:
            raise UsageError(
                "quorum.toml wants a commitment before a result, and there is none here",
                where=str(rebuilt / SALT_FILE),
                hint="verify commit makes it, before the claim is published",
                code="not-committed",
            )
    statement = answer(
        ask,
        report,
        member=member,
        dissent=dissent,
        now=utc_now(),
        reason=reason,
        host=host_name(host, ask.policy),
        salt=opening.salt if opening else None,
    )
    paths = sign_answer(attestations, statement, ask.policy, signer)
    if as_json:
        emit_json(
            {
                "member": member,
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
        err().print(f"{path}: {statement.outcome}, signed by {member}", markup=False)
