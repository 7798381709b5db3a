"""``verify commit``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.options import FOLDER, SigningKey, quorum_options, signing_options
from coattest_verify.quorum.members.file import own_key
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.statements.salt import new_secret, read_secret, write_secret
from coattest_verify.quorum.statements.votes import COMMIT, make_vote, sign_vote, vote_name
from coattest_verify.rebuild.answer import read_members, read_report, refuse_dirty, remeasure


@click.command("commit")
@signing_options
@click.option(
    "--rebuild", "rebuilt", type=FOLDER, default=Path("out"), show_default=True, help="The rebuild's folder."
)
@quorum_options
@json_option
def commit_command(
    *, signing: SigningKey, rebuilt: Path, attestations: Path, root: bytes | None, as_json: bool
) -> None:
    """Commit to this machine's rebuild, without revealing it, before the claim is published.

    Writes commit.MEMBER.SOURCE.dsse.json, which verify log append puts into the log, and OUT/commitment.json,
    which stays secret until verify sign-pcrs reveals it.
    """
    members = read_members(attestations)
    signer = signing.signer(attestations)
    own_key(signing.member, members, signer)
    pinned = Roots().pinned(root)
    report = read_report(rebuilt)
    refuse_dirty(report)
    remeasure(rebuilt, report)
    secret = read_secret(rebuilt, signing.member, members) or new_secret(signing.member, members)
    vote = make_vote(
        COMMIT, signing.member, root=pinned, claim=report, note=secret.digest(report), now=utc_now()
    )
    path = attestations / vote_name(vote)
    if path.exists() or path.is_symlink():
        raise UsageError(
            "is already there",
            where=str(path),
            hint="one commitment per source; to keep the old one, put a word before its .dsse.json",
            code="exists",
        )
    # The salt first: a commitment that cannot be opened is useless.
    salt_file = write_secret(rebuilt, secret)
    write_atomic(path, sign_vote(vote, signer))
    if as_json:
        emit_json({"file": str(path), "commitment": vote.note, "secret": str(salt_file)})
        return
    err().print(f"{path}: committed by {signing.member}; next: verify log append", markup=False)
    err().print(f"{salt_file}: keep it until verify sign-pcrs, and show it to nobody", markup=False)
