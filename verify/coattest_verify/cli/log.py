"""``verify log append``, ``verify log cosign`` and ``verify log show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Folder
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, option_group, out, utc_now
from coattest_verify.cli.options import SigningKey, quorum_options, read_once, signing_options
from coattest_verify.quorum.cosigning import LogPlan, sign_log, sound_log
from coattest_verify.quorum.log.entries import parse_entry
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE
from coattest_verify.quorum.members.chain import Seen, follow
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.memory import Roots


@click.group("log")
def log_command() -> None:
    """The transparency log of statements, votes and claims in attestations/log/."""


_options = option_group(signing_options, expect_option, quorum_options, json_option)


@log_command.command("append")
@_options
def log_append_command(**options: Any) -> None:
    """Append what is in the folder and not in the log yet, and cosign the new checkpoint.

    Refuses when the log does not extend what this machine saw before, or names a dissent whose file is gone.
    Whether the log may be cosigned is checked entry by entry, not by eye: without a terminal nothing is
    asked. --expect is the log's root after it.
    """
    _sign(append=True, **options)


@log_command.command("cosign")
@_options
def log_cosign_command(**options: Any) -> None:
    """Cosign the checkpoint as it is, after the same checks as for append.

    Appending makes a new checkpoint without the others' cosignatures: they cosign it then. --expect is the
    log's root, as verify log show has it.
    """
    _sign(append=False, **options)


def _sign(
    *,
    signing: SigningKey,
    expect: str | None,
    attestations: Path,
    root: bytes | None,
    append: bool,
    as_json: bool,
) -> None:
    memory = Roots()
    pinned = memory.pinned(root)
    seen = memory.seen(pinned)
    with read_once(attestations) as evidence:
        signer = signing.signer(evidence)

    def approve(plan: LogPlan) -> None:
        confirm_signing(
            [
                ("signs", f"{signing.member} checked the log up to its entry {plan.checkpoint.size - 1}"),
                *[("new entry", _entry_words(entry)) for entry in plan.fresh],
            ],
            subject="log's root",
            digest=plan.checkpoint.root.hex(),
            expected=expect,
            looked_at=True,
        )

    done = sign_log(
        attestations,
        pinned,
        signing.member,
        signer,
        seen=seen,
        now=utc_now(),
        append=append,
        approve=approve,
    )
    if seen is not None:
        memory.remember(pinned, Seen(seen.version, seen.sha256, done.seen))
    checkpoint = done.cosigned.checkpoint
    if as_json:
        emit_json(
            {
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "appended": done.appended,
                "cosigned": sorted(done.cosigned.times),
            }
        )
        return
    err().print(
        f"{attestations / CHECKPOINT_FILE}: {checkpoint.size} entries, {done.appended} new; cosigned by "
        + ", ".join(sorted(done.cosigned.times)),
        markup=False,
    )


def _entry_words(data: bytes) -> str:
    entry = parse_entry(data)
    facts = dict(entry.facts)
    words = (entry.kind, entry.member, entry.outcome, facts.get("release"), facts.get("profile"))
    return " ".join(word for word in words if word)


@log_command.command("show")
@quorum_options
@json_option
def log_show_command(*, attestations: Path, root: bytes | None, as_json: bool) -> None:
    """Check the log's tree, cosignatures and growth, and list its entries."""
    memory = Roots()
    pinned = memory.pinned(root)
    seen = memory.seen(pinned)
    with Folder(attestations) as folder:
        members = follow(folder, pinned, seen=seen, now=utc_now()).current
        found = sound_log(folder, pinned, members, seen)
    if found is None:
        raise UsageError(
            "there is no log",
            where=str(attestations / CHECKPOINT_FILE),
            hint="verify log append starts one",
        )
    try:
        entries = [parse_entry(entry) for entry in found.entries]
    except Rejected as error:
        raise FoundFalse(error.what, where=str(attestations / CHECKPOINT_FILE), code="bad-log") from None
    checkpoint, times = found.cosigned.checkpoint, found.cosigned.times
    if as_json:
        emit_json(
            {
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "cosigned": {name: utc(time) for name, time in sorted(times.items())},
                "entries": [
                    {
                        "kind": entry.kind,
                        "member": entry.member,
                        "sha256": entry.sha256,
                        **dict(entry.facts),
                    }
                    for entry in entries
                ],
            }
        )
        return
    table = Table("entry", "kind", "member", "what", Column("sha256", overflow="fold"))
    for index, entry in enumerate(entries):
        what = entry.outcome or dict(entry.facts).get("profile", "")
        table.add_row(str(index), entry.kind, Text(entry.member or ""), Text(what), entry.sha256)
    out().print(table)
    out().print(f"root {checkpoint.root.hex()}")
    for name, time in sorted(times.items()):
        out().print(f"cosigned by {name} at {utc(time)}", markup=False)
