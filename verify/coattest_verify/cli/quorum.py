"""``verify quorum``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.errors import Rejected, UsageError
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import EXISTING_FILE, decision_options
from coattest_verify.quorum.authority import bundle_root
from coattest_verify.quorum.bundle import load_bundle
from coattest_verify.quorum.decision import Outcome, decide, decide_from
from coattest_verify.quorum.members.file import parse_utc, utc
from coattest_verify.quorum.memory import Roots, Unwritten


@click.command("quorum")
@decision_options
@click.option("--own", help="Also require this member's own agreeing statement.")
@click.option(
    "--at",
    metavar="TIME|bundle",
    help="With --bundle: decide as of this time (RFC 3339, UTC), or as of the time that the bundle names.",
)
@click.option(
    "--also",
    multiple=True,
    type=EXISTING_FILE,
    help="A statement or vote that came another way, such as a dissent that the host may hide; repeatable.",
)
@click.option(
    "--stateless",
    is_flag=True,
    help="Read and write no memory of what was seen before; --seen FILE is a memory to read.",
)
@click.option("--seen", type=EXISTING_FILE, help="With --stateless: a copy of roots.json to decide with.")
@json_option
def quorum_command(
    *,
    attestations: Path,
    root: bytes | None,
    profile: str,
    release: str | None,
    own: str | None,
    bundle: Path | None,
    at: str | None,
    also: tuple[Path, ...],
    stateless: bool,
    seen: Path | None,
    as_json: bool,
) -> int:
    """Decide, and say who agrees, who dissents, which files were refused and why.

    Exit code 0: decided. 1: something is false, a dissent or a revocation. 3: undecided, something lacks.
    """
    if seen is not None and not stateless:
        raise UsageError("--seen goes with --stateless")
    if bundle is not None:
        refuse_ignored(("attestations", "also", "stateless", "seen"), "with --bundle")
        outcome = from_bundle(bundle, root, at, profile=profile, own=own, release=release)
    elif at is not None:
        raise UsageError("--at goes with --bundle")
    else:
        outcome = decide(
            attestations,
            root=_needed(root) if stateless else root,
            profile=profile,
            now=utc_now(),
            own=own,
            release=release,
            roots=Unwritten(seen) if stateless else None,
            also=also,
        )
        if stateless and seen is None:
            err().print("rollback not detected: what was seen before is not known here", style="yellow")
    if as_json:
        emit_json(outcome.to_json())
    else:
        show_outcome(outcome)
    return outcome.exit_code


def _needed(root: bytes | None) -> bytes:
    if root is None:
        raise UsageError("--stateless needs --root sha256:HEX", code="no-root")
    return root


def from_bundle(
    path: Path, root: bytes | None, at: str | None, *, profile: str, own: str | None, release: str | None
) -> Outcome:
    """Decide from a bundle. Without ``at`` remembered versions count; for the past they cannot."""
    pinned = bundle_root(root)
    held = load_bundle(path)
    err().print(
        "a bundle holds what its maker put in: a dissent or revocation may have been left out", style="yellow"
    )
    if at is None:
        return decide_from(
            held.files,
            root=pinned,
            seen=Roots().seen(pinned),
            profile=profile,
            now=utc_now(),
            own=own,
            release=release,
        )
    try:
        moment = held.made if at == "bundle" else parse_utc(at)
    except Rejected as error:
        raise UsageError(error.what, where=f"--at {at[:80]}") from None
    if moment > utc_now():
        raise UsageError("--at lies in the future", where=at)
    err().print(f"as of {utc(moment)}: later versions and revocations may exist", style="yellow")
    return decide_from(
        held.files, root=pinned, seen=None, profile=profile, now=moment, own=own, release=release
    )


def show_outcome(outcome: Outcome) -> None:
    """The outcome as tables on stdout; reasons and warnings on stderr."""
    answers = Table("member", "answer", Column("detail", overflow="fold"))
    for answer in outcome.answers:
        answers.add_row(answer.member, Text("agrees", style="green"), Text(answer.detail))
    for answer in outcome.dissent:
        answers.add_row(answer.member, Text("dissents", style="red"), Text(answer.detail))
    for name in outcome.missing:
        answers.add_row(name, Text("missing", style="yellow"), "")
    if answers.row_count:
        out().print(answers)
    if outcome.refused:
        refused = Table(Column("file that does not count", overflow="fold"), "code", "detail")
        for item in outcome.refused:
            # File names are chosen by whoever wrote the file: no markup, no control characters.
            refused.add_row(Text(ascii(item.where)[1:-1]), item.code, Text(item.detail))
        out().print(refused)
    for warning in outcome.warnings:
        err().print(f"warning: {warning}", style="yellow", markup=False)
    for reason in outcome.reasons:
        err().print(f"no decision: {reason}", style="red", markup=False)
    if outcome.decision is not None:
        decision = outcome.decision
        registers = [(f"PCR{index}", value) for index, value in sorted(decision.pcrs.items())]
        rows = [
            ("decided", f"release {decision.release}, {decision.architecture}, profile {decision.profile}"),
            *registers,
            ("image", f"{decision.image_size} bytes, SHA-384 {decision.image_sha384}"),
            ("agreed", ", ".join(decision.agreed)),
            ("until", utc(decision.expires)),
            ("decision", decision.digest.hex()),
        ]
        for name, value in rows:
            # Not a table: digests are for copying, so they are never folded or cut.
            out().print(f"{name:8}  {value}", markup=False)
