"""``verify turn``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from coattest.errors import CoattestError
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, json_option, option_group, utc_now
from coattest_verify.auction.withdrawal import PAYLOAD_TYPE, WITHDRAWAL_NAME
from coattest_verify.cli.options import (
    EXISTING_FILE,
    FOLDER,
    SigningKey,
    root_option,
    signing_options,
)
from coattest_verify.cli.release.publish import checked_tag
from coattest_verify.cli.words import (
    commit_rows,
    cosign_rows,
    countersign_rows,
    publish_rows,
    statement_rows,
)
from coattest_verify.quorum.cosigning import CosignPlan
from coattest_verify.quorum.memory import Roots, parse_digest
from coattest_verify.quorum.signing import Pending
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.quorum.statements.votes import Vote
from coattest_verify.rebuild.answer import OwnReport
from coattest_verify.turn.loop import TurnEnd, take_turn
from coattest_verify.turn.repository import OwnRepository
from coattest_verify.turn.settings import load_settings
from coattest_verify.turn.steps import MemberTurn, Questions, results_in

DEFAULT_RESULTS = (Path("out"),)


class Asked(Questions):
    """Shows what would be signed, and asks; ``--expect`` names digests to which the answer is yes."""

    def __init__(self, member: str, expected: frozenset[str]) -> None:
        self._member, self._expected = member, expected

    def version(self, waiting: Pending) -> None:
        """A version of the members file."""
        self._ask(countersign_rows(waiting, self._member), waiting.file, waiting.members.sha256)

    def commitment(self, own: OwnReport) -> None:
        """A commitment to a build of this machine."""
        self._ask(commit_rows(self._member, own.report), "build report", own.sha256, looked_at=True)

    def statement(self, statement: Statement, claim: Claimed, *, looked_at: bool) -> None:
        """A statement on a claim."""
        self._ask(statement_rows(statement), "claim", claim.sha256, looked_at=looked_at)

    def claim(self, claim: Claimed, vote: Vote) -> None:
        """A claim that the member publishes."""
        self._ask(publish_rows(claim, vote), "claim", claim.sha256)

    def cosignature(self, plan: CosignPlan) -> None:
        """Shown, and not asked: what it says was checked entry by entry."""
        for name, value in cosign_rows(self._member, plan):
            err().print(f"{name}: {value}")

    def _ask(
        self, rows: list[tuple[str, str]], subject: str, digest: str, *, looked_at: bool = False
    ) -> None:
        expected = digest if digest in self._expected else None
        confirm_signing(rows, subject=subject, digest=digest, expected=expected, looked_at=looked_at)


@click.command("turn")
@signing_options
@click.option(
    "--rebuild",
    "rebuilt",
    type=FOLDER,
    multiple=True,
    show_default="out, if it is there",
    help="The OUT of a verify rebuild or eif build on this machine; repeatable.",
)
@option_group(
    click.option("--claim", type=EXISTING_FILE, help="A claim to publish (eif build --claim wrote it)."),
    click.option(
        "--tag", callback=checked_tag, help="The tag that the claim is of; default: v and the release."
    ),
    click.option(
        "--expect",
        "expected",
        multiple=True,
        type=parse_digest("--expect"),
        metavar="sha256:HEX",
        help="Say yes to this members file, claim or build report; repeatable.",
    ),
)
@root_option
@json_option
def turn_command(
    *,
    signing: SigningKey,
    rebuilt: tuple[Path, ...],
    claim: Path | None,
    tag: str | None,
    expected: tuple[bytes, ...],
    root: bytes | None,
    as_json: bool,
) -> int:
    """Do a member's whole part in a quorum that lives in git: fetch, sign what is asked, log, cosign, push.

    turn.toml in your configuration names the repository. Signs a version of the members file that waits, and
    commits to or states the results that verify rebuild left on this machine, each after a yes; appends to
    the log, and cosigns what was fetched back. When another push wins, it begins again. Without the right to
    push, your own files go to a branch coattest/MEMBER. Exit code 0: nothing is left to do. Otherwise each
    thing that was not done has its reason.
    """
    settings = load_settings()
    memory = Roots()
    pinned = memory.pinned(root)
    member = MemberTurn(
        name=signing.member,
        signer=signing.signer,
        root=pinned,
        questions=Asked(signing.member, frozenset(digest.hex() for digest in expected)),
        rebuilds=rebuilt or results_in(DEFAULT_RESULTS),
        claim=claim,
        tag=tag,
        memory=memory,
    )
    end = take_turn(OwnRepository(pinned, settings), member, {WITHDRAWAL_NAME: PAYLOAD_TYPE}, utc_now)
    if as_json:
        emit_json(
            {
                "tip": end.tip,
                "published": end.published,
                "branch": end.branch,
                "done": member.done,
                "waits": [{"about": what, **error.to_json()} for what, error in member.waits.items()],
            }
        )
    else:
        _show(member, end)
    return _code(member.waits.values())


def _show(member: MemberTurn, end: TurnEnd) -> None:
    for line in member.done:
        err().print(line)
    for what, error in member.waits.items():
        err().print(f"not done, {what}: {error}", style="yellow")
    if end.branch is not None:
        err().print(f"handed in as {end.branch}, not published: {end.said}")
    else:
        err().print(f"{'published' if end.published else 'nothing to publish'}; tip {end.tip}")


def _code(errors: Iterable[CoattestError]) -> int:
    """The exit code: what was found false goes before what was not answered or could not be done."""
    codes = {error.exit_code for error in errors}
    return next((code for code in (1, 2, 3) if code in codes), 0)
