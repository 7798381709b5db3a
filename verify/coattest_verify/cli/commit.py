"""``verify commit``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
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
from coattest_verify.cli.words import report_rows
from coattest_verify.quorum.members.file import own_key
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import put_file, release_place
from coattest_verify.quorum.statements.salt import new_secret, read_secret, secret_folder, write_secret
from coattest_verify.quorum.statements.votes import COMMIT, make_vote, sign_vote, vote_name
from coattest_verify.rebuild.answer import read_members, read_report, refuse_dirty, remeasure


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
        signer = signing.signer(evidence)
        own_key(signing.member, members, signer)
        pinned = Roots().pinned(root)
        own = read_report(rebuilt, OwnWork(), vouched)
    refuse_dirty(own.report)
    remeasure(own)
    folder = secret_folder(signing.member, pinned, own.report)
    secret = read_secret(folder, signing.member, pinned) or new_secret(signing.member, pinned)
    vote = make_vote(
        COMMIT,
        signing.member,
        root=pinned,
        claim=own.report,
        note=secret.digest(own.report),
        now=utc_now(),
    )
    place = release_place(vote.release, vote_name(vote))
    path = attestations / place
    if path.exists() or path.is_symlink():
        raise UsageError(
            "is already there",
            where=str(path),
            hint="one commitment per source; to keep the old one, put a word before its .dsse.json",
            code="exists",
        )
    confirm_signing(
        [("signs", f"{signing.member} has this result, without showing it"), *report_rows(own.report)],
        subject="build report",
        digest=own.sha256,
        expected=expect,
        looked_at=vouched is None,
    )
    # The salt first: a commitment that cannot be opened is useless.
    salt_file = write_secret(folder, secret)
    put_file(attestations, place, sign_vote(vote, signer))
    if as_json:
        emit_json({"file": str(path), "commitment": vote.note, "secret": str(salt_file)})
        return
    err().print(f"{path}: committed by {signing.member}; next: verify log append", markup=False)
    err().print(f"{salt_file}: keep it until verify sign-pcrs, and show it to nobody", markup=False)
