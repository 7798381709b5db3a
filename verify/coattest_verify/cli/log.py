"""``verify log sign`` and ``verify log show``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.errors import Rejected, UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import attestations_option, root_option, signer_from, signing_options
from coattest_verify.quorum.cosigning import BadLog, sign_log
from coattest_verify.quorum.directory import Folder
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, extends, parse_entry, read_log
from coattest_verify.quorum.members.chain import Seen, follow
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.memory import Roots


@click.group()
def log() -> None:
    """The transparency log of statements and decisions in attestations/log/."""


@log.command()
@signing_options
@attestations_option
@root_option
@json_option
def sign(
    *,
    key: Path,
    passphrase_file: Path | None,
    member: str,
    attestations: Path,
    root: bytes | None,
    as_json: bool,
) -> None:
    """Append what is in the folder and not in the log yet, and cosign the checkpoint.

    Refuses when the log does not extend what this machine saw before, or names a dissent whose file is gone.
    """
    memory = Roots()
    pinned = memory.pinned(root)
    seen = memory.seen(pinned)
    signer = signer_from(key, passphrase_file, attestations, member)
    done = sign_log(attestations, pinned, member, signer, seen=seen, now=utc_now())
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


@log.command()
@attestations_option
@root_option
@json_option
def show(*, attestations: Path, root: bytes | None, as_json: bool) -> None:
    """Check the log's tree, cosignatures and growth, and list its entries."""
    memory = Roots()
    pinned = memory.pinned(root)
    seen = memory.seen(pinned)
    with Folder(attestations) as folder:
        policy = follow(folder, pinned, seen=seen, now=utc_now()).current
        try:
            found = read_log(folder, pinned, policy)
            entries = [parse_entry(entry) for entry in found.entries] if found else []
        except Rejected as error:
            raise BadLog(error.what, where=str(attestations / CHECKPOINT_FILE)) from None
    if found is None:
        raise UsageError(
            "there is no log", where=str(attestations / CHECKPOINT_FILE), hint="verify log sign starts one"
        )
    problem = extends(found, seen.log if seen else None)
    if problem:
        raise BadLog(problem, where=str(attestations / CHECKPOINT_FILE))
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
                        **dict(entry.about),
                    }
                    for entry in entries
                ],
            }
        )
        return
    table = Table("entry", "kind", "member", "about", Column("sha256", overflow="fold"))
    for index, entry in enumerate(entries):
        about = entry.outcome or dict(entry.about).get("profile", "")
        table.add_row(str(index), entry.kind, Text(entry.member or ""), Text(about), entry.sha256)
    out().print(table)
    out().print(f"root {checkpoint.root.hex()}")
    for name, time in sorted(times.items()):
        out().print(f"cosigned by {name} at {utc(time)}", markup=False)
