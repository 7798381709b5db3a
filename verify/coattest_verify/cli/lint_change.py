"""``verify lint-change``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from coattest.errors import EnvironmentFailure, Rejected
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, judged_folder, out
from coattest.text import printable
from coattest_verify.auction.withdrawal import PAYLOAD_TYPE, WITHDRAWAL_NAME
from coattest_verify.cli.options import FOLDER, root_option
from coattest_verify.quorum.change.judge import ChangeVerdict, judge_change
from coattest_verify.quorum.change.tree import two_commits
from coattest_verify.quorum.memory import Roots


@click.command("lint-change")
@click.argument("base")
@click.option("--head", default="HEAD", show_default=True, metavar="COMMIT", help="The commit to be merged.")
@judged_folder(
    click.option(
        "--repository",
        type=FOLDER,
        default=Path(),
        show_default="current folder",
        help="A checkout, or a bare repository. Only its objects are read.",
    )
)
@click.option(
    "--folder",
    default="attestations",
    show_default=True,
    metavar="PATH",
    help="The attestations, by their path inside the repository.",
)
@click.option("--member", metavar="NAME", help="Whose change it must be; default: any one member's.")
@root_option
@json_option
def lint_change_command(
    *,
    base: str,
    head: str,
    repository: Path,
    folder: str,
    member: str | None,
    root: bytes | None,
    as_json: bool,
) -> int:
    """Say whether a change to the attestations may be merged: what lies between BASE and HEAD in git.

    It may add authentic files of one member, a claim, and what follows from them; nothing that others rely on
    is replaced or removed. Exit code 0: it may. 1: it may not. 3: nothing there was changed, HEAD does not
    come after BASE, or BASE itself is not valid.
    """
    pinned, seen = Roots().known(root)
    with two_commits(repository, base, head, folder) as commits:
        try:
            others = {WITHDRAWAL_NAME: PAYLOAD_TYPE}
            verdict = judge_change(commits, pinned, seen=seen, member=member, others=others)
        except Rejected as error:
            raise EnvironmentFailure(
                f"{error.what}, so the members' files cannot be told apart",
                where=f"{commits.base.commit}: {error.where or folder}",
                hint=error.hint,
                code=error.code,
            ) from None
    if not verdict.touched:
        raise EnvironmentFailure(
            "nothing was looked at: the change does not touch it", where=folder, code="no-change"
        )
    if as_json:
        emit_json(
            {
                "base": verdict.base,
                "head": verdict.head,
                "mergeable": not verdict.findings,
                "members": list(verdict.members),
                "changes": [asdict(each) for each in verdict.changes],
                "findings": [finding.to_json() for finding in verdict.findings],
            }
        )
    else:
        _show(verdict)
    return 1 if verdict.findings else 0


def _show(verdict: ChangeVerdict) -> None:
    for each in verdict.changes:
        whose = f"  {each.member}" if each.member else ""
        out().print(printable(f"{each.what:8}  {each.name}{whose}"))
    for finding in verdict.findings:
        err().print(printable(str(finding)), style="red")
    word = "may not be merged" if verdict.findings else "may be merged"
    whose = f", by {', '.join(verdict.members)}" if verdict.members else ""
    err().print(f"{word}: {len(verdict.changes)} files{whose}")
