"""``verify commit``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_build.ownwork import OwnWork
from coattest_verify.cli.options import (
    SigningKey,
    quorum_options,
    read_once,
    report_options,
    signing_options,
)
from coattest_verify.cli.words import commit_rows
from coattest_verify.quorum.memory import Roots
from coattest_verify.rebuild.answer import read_members, read_report
from coattest_verify.rebuild.committing import commit_to


@click.command("commit")
@signing_options
@report_options
@expect_option
@quorum_options
@json_option
def commit_command(
    *,
    signing: SigningKey,
    rebuilt: Path,
    vouched: Path | None,
    expect: str | None,
    attestations: Path,
    root: bytes | None,
    as_json: bool,
) -> None:
    """Commit to this machine's rebuild, without revealing it, before the claim is published.

    Writes commit.MEMBER.SOURCE.dsse.json into the release's folder, and verify log append logs it. The secret
    that opens it stays in this user's state until verify sign-pcrs reveals it. --expect is the SHA-256 of the
    build report.
    """
    with read_once(attestations) as evidence:
        members = read_members(evidence, attestations)
        signer = signing.signer(evidence, members)
        pinned = Roots().pinned(root)
        own = read_report(rebuilt, OwnWork(), vouched)
    path, vote, salt_file = commit_to(
        attestations,
        own,
        signing.member,
        signer,
        root=pinned,
        now=utc_now(),
        approve=lambda: confirm_signing(
            commit_rows(signing.member, own.report),
            subject="build report",
            digest=own.sha256,
            expected=expect,
            looked_at=vouched is None,
        ),
    )
    if as_json:
        emit_json({"file": str(path), "commitment": vote.note, "secret": str(salt_file)})
        return
    err().print(f"{path}: committed by {signing.member}; next: verify log append")
    err().print(f"{salt_file}: keep it until verify sign-pcrs, and show it to nobody")
