"""``verify commit``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.options import FOLDER, attestations_option, root_option, signer_from, signing_options
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.statements.salt import keep, kept, new_opening
from coattest_verify.quorum.votes import COMMIT, make_vote, sign_vote, vote_name
from coattest_verify.rebuild.answer import DirtyTree, own_key, read_policy, read_report, remeasure


@click.command()
@signing_options
@click.option(
    "--rebuild", "rebuilt", type=FOLDER, default=Path("out"), show_default=True, help="The rebuild's folder."
)
@attestations_option
@root_option
@json_option
def commit(
    *,
    key: Path,
    passphrase_file: Path | None,
    member: str,
    rebuilt: Path,
    attestations: Path,
    root: bytes | None,
    as_json: bool,
) -> None:
    """Bind yourself to what this machine rebuilt, before the service publishes its claim, without showing it.

    Writes commit.MEMBER.SOURCE.dsse.json, to be logged with verify log sign, and OUT/commitment.json, which
    stays secret until verify sign-pcrs reveals it.
    """
    policy = read_policy(attestations)
    signer = signer_from(key, passphrase_file, attestations, member)
    own_key(member, policy, signer)
    pinned = Roots().pinned(root)
    report = read_report(rebuilt)
    if report.dirty:
        raise DirtyTree("the source had uncommitted changes", hint="commit or discard them, then rebuild")
    remeasure(rebuilt, report)
    opening = kept(rebuilt, member, policy) or new_opening(member, policy)
    vote = make_vote(COMMIT, member, root=pinned, claim=report, note=opening.digest(report), now=utc_now())
    path = attestations / vote_name(vote)
    if path.exists() or path.is_symlink():
        raise UsageError(
            "is already there",
            where=str(path),
            hint="one commitment for a source; keep the old one by putting a word before .dsse.json",
            code="exists",
        )
    # The salt first: a commitment that cannot be opened is worth nothing.
    secret = keep(rebuilt, opening)
    write_atomic(path, sign_vote(vote, signer))
    if as_json:
        emit_json({"file": str(path), "commitment": vote.note, "secret": str(secret)})
        return
    err().print(f"{path}: committed by {member}; next: verify log sign", markup=False)
    err().print(f"{secret}: keep it until verify sign-pcrs, and show it to nobody", markup=False)
