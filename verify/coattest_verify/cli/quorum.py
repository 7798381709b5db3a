"""``verify quorum``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from coattest.console import Cell
from coattest.errors import Rejected, UsageError
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import EXISTING_FILE, decision_options
from coattest_verify.cli.words import payload_rows
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
    help="A statement or vote from outside the folder, such as a dissent that its host may hide; repeatable.",
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
    bundle: Path | None,
    at: str | None,
    also: tuple[Path, ...],
    stateless: bool,
    seen: Path | None,
    as_json: bool,
    **asked: Any,
) -> int:
    """Decide, and say who agrees, who dissents, which files were refused and why.

    Exit code 0: decided. 1: something is false, a dissent or a revocation. 3: something is
    missing.
    """
    if seen is not None and not stateless:
        raise UsageError("--seen needs --stateless")
    if bundle is not None:
        refuse_ignored(("attestations", "also", "stateless", "seen"), "with --bundle")
        outcome = _from_bundle(bundle, root, at, asked)
    elif at is not None:
        raise UsageError("--at needs --bundle")
    elif stateless and root is None:
        raise UsageError("--stateless needs --root sha256:HEX", code="no-root")
    else:
        outcome = decide(
            attestations,
            root=root,
            now=utc_now(),
            roots=Unwritten(seen) if stateless else None,
            also=also,
            **asked,
        )
        if stateless and seen is None:
            err().print(
                "rollback not detected: without a memory, older files look like new ones", style="yellow"
            )
    if as_json:
        emit_json(outcome.to_json())
    else:
        show_outcome(outcome)
    return outcome.exit_code


def _from_bundle(path: Path, root: bytes | None, at: str | None, asked: Mapping[str, Any]) -> Outcome:
    """Decide from a bundle. Without ``at`` remembered versions count; for the past they cannot."""
    pinned = bundle_root(root)
    held = load_bundle(path)
    err().print(
        "a bundle holds what its maker put in: a dissent or revocation may have been left out", style="yellow"
    )
    seen, moment = (Roots().seen(pinned), utc_now()) if at is None else (None, _moment(at, held.made))
    outcome = decide_from(held.files, root=pinned, seen=seen, now=moment, **asked)
    if not outcome and at is not None and moment < held.made:
        err().print(
            f"--at is before this bundle was made, at {utc(held.made)}: --at bundle names that time",
            style="yellow",
        )
    return outcome


def _moment(at: str, made: datetime) -> datetime:
    """The past time that ``--at`` names; it is said that this is the past. Raises UsageError."""
    try:
        moment = made if at == "bundle" else parse_utc(at)
    except Rejected as error:
        raise UsageError(error.what, where=f"--at {at[:80]}") from None
    if moment > utc_now():
        raise UsageError("--at lies in the future", where=at)
    err().print(f"as of {utc(moment)}: later versions and revocations may exist", style="yellow")
    return moment


def show_outcome(outcome: Outcome) -> None:
    """The outcome on stdout; reasons and warnings on stderr."""
    answers: list[tuple[Cell, ...]] = [
        *[(answer.member, ("agrees", "green"), answer.detail) for answer in outcome.answers],
        *[(answer.member, ("dissents", "red"), answer.detail) for answer in outcome.dissent],
        *[(name, ("missing", "yellow"), "") for name in outcome.missing],
    ]
    out().show_rows(("member", "answer", "detail"), answers)
    # File names are chosen by whoever wrote the file.
    refused = [(ascii(item.where)[1:-1], item.code, item.detail) for item in outcome.refused]
    out().show_rows(("file that does not count", "code", "detail"), refused)
    out().show_facts(_facts(outcome))
    for warning in outcome.warnings:
        err().print(f"warning: {warning}", style="yellow")
    for reason in outcome.reasons:
        err().print(f"no decision: {reason}", style="red")


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """What was decided, on what ground, with every digest that somebody may compare."""
    decision = outcome.decision
    if decision is not None:
        yield "decided", f"release {decision.release}, {decision.architecture}, profile {decision.profile}"
        for index, value in sorted(decision.pcrs.items()):
            yield f"PCR{index}", value
        yield "image", f"{decision.image_size} bytes, SHA-384 {decision.image_sha384}"
        yield "source tree", decision.tree_sha256
        yield "lock", decision.lock_sha256
        yield from payload_rows(decision.container)
        yield "agreed", ", ".join(decision.agreed)
        yield "until", utc(decision.expires)
        yield "root", decision.root_sha256
        yield "release", decision.release_digest.hex()
        yield "decision", decision.digest.hex()
    if outcome.members is not None:
        yield "members file", f"version {outcome.members.version}, sha256:{outcome.members.sha256}"
    if outcome.log is not None:
        yield "log", f"{outcome.log.size} entries, root {outcome.log.root}"
