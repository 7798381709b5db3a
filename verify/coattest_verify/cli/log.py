"""``verify log append``, ``verify log cosign`` and ``verify log show``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Folder
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, out, utc_now
from coattest_verify.cli.options import SigningKey, quorum_options, read_once, signing_options, tell_expiry
from coattest_verify.cli.words import cosign_rows, entry_words
from coattest_verify.quorum.cosigning import (
    CosignPlan,
    append_log,
    cosign_log,
    seen_by_cosigner,
    sound_log,
)
from coattest_verify.quorum.log.entries import parse_entry
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, cosignature_file
from coattest_verify.quorum.members.chain import follow
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.memory import Roots


@click.group("log")
def log_command() -> None:
    """The transparency log of statements, votes and claims in attestations/log/."""


@log_command.command("append")
@quorum_options
@json_option
def log_append_command(*, attestations: Path, root: bytes | None, as_json: bool) -> None:
    """Append what is in the folder and not in the log yet. Nothing is signed.

    Refuses when the log does not extend what this machine saw before. An append starts from what was fetched
    last; where another one was pushed first, take this one back, fetch, and append again. Cosign what you
    fetched back.
    """
    pinned, seen = Roots().known(root)
    done = append_log(attestations, pinned, seen=seen)
    with Folder(attestations) as folder:
        tell_expiry(folder)
    checkpoint = done.checkpoint
    if as_json:
        emit_json({"size": checkpoint.size, "root": checkpoint.root.hex(), "appended": len(done.fresh)})
        return
    for entry in done.fresh:
        err().print(f"new entry: {entry_words(entry)}")
    where = attestations / CHECKPOINT_FILE
    err().print(
        f"{where}: {checkpoint.size} entries, {len(done.fresh)} new; next: publish it, and verify log cosign",
    )
    err().print(f"root {checkpoint.root.hex()}")


@log_command.command("cosign")
@signing_options
@expect_option
@quorum_options
@json_option
def log_cosign_command(
    *, signing: SigningKey, expect: str | None, attestations: Path, root: bytes | None, as_json: bool
) -> None:
    """Cosign the log as it was fetched, in this member's own file.

    Refuses when the log does not extend what this machine saw or cosigned before, or has an entry, since this
    member's last cosignature, that no authentic file here gives, or an objection whose file is gone. That is
    checked entry by entry, not by eye: without a terminal nothing is asked. --expect is the log's root, as
    verify log show has it.
    """
    memory = Roots()
    pinned, seen = memory.known(root)
    with read_once(attestations) as evidence:
        signer = signing.signer(evidence)

    def approve(plan: CosignPlan) -> None:
        confirm_signing(
            cosign_rows(signing.member, plan),
            subject="log's root",
            digest=plan.checkpoint.root.hex(),
            expected=expect,
            looked_at=True,
        )

    log, _ = cosign_log(
        attestations, pinned, signing.member, signer, seen=seen, now=utc_now(), approve=approve
    )
    if seen is not None:
        with Folder(attestations) as folder:
            chain = follow(folder, pinned, seen=seen, now=None)
            memory.remember(pinned, seen_by_cosigner(folder, chain, log, seen))
    names = sorted({*log.times, signing.member})
    if as_json:
        emit_json({"size": log.checkpoint.size, "root": log.checkpoint.root.hex(), "cosigned": names})
        return
    err().print(
        f"{attestations / cosignature_file(signing.member)}: {log.checkpoint.size} entries; all of them are"
        f" cosigned by {', '.join(names)}",
    )


@log_command.command("show")
@quorum_options
@json_option
def log_show_command(*, attestations: Path, root: bytes | None, as_json: bool) -> None:
    """Check the log's tree, cosignatures and growth, and list its entries."""
    pinned, seen = Roots().known(root)
    with Folder(attestations) as folder:
        chain = follow(folder, pinned, seen=seen, now=utc_now())
        tell_expiry(folder)
    found = sound_log(chain)
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
    checkpoint = found.checkpoint
    notes = [note for _, note in sorted(found.cosignatures.items())]
    if as_json:
        emit_json(
            {
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "cosigned": {
                    note.member: {"size": note.checkpoint.size, "time": utc(note.time)} for note in notes
                },
                "refused": [finding.to_json() for finding in found.refused],
                "entries": [
                    {
                        "kind": entry.kind,
                        "member": entry.member,
                        "sha256": entry.sha256,
                        **entry.facts,
                    }
                    for entry in entries
                ],
            }
        )
        return
    rows = []
    for index, entry in enumerate(entries):
        what = entry.outcome or entry.facts.get("version") or entry.facts.get("release", "")
        rows.append((str(index), entry.kind, entry.member or "", what, entry.sha256))
    out().show_rows(("entry", "kind", "member", "what", "sha256"), rows)
    for entry in entries:
        if "claim" in entry.facts:
            out().print(f"claim {entry.facts['claim']} of {entry.facts.get('release', '')}")
    out().print(f"root {checkpoint.root.hex()}")
    for note in notes:
        size = note.checkpoint.size
        out().print(f"{size} entries cosigned by {note.member} at {utc(note.time)}")
    for finding in found.refused:
        err().print(f"not counted: {finding}")
