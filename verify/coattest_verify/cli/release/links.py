"""``verify release links``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import FOLDER, decision_options
from coattest_verify.quorum.authority import evidence_from, outcome_from
from coattest_verify.quorum.links import (
    LAYOUT_FILE,
    MAX_LINK,
    STEP,
    filtered,
    layout_of,
    layout_signatures,
    metablock,
)
from coattest_verify.quorum.releases import release_files


@click.command("links")
@click.option("--out", "target", type=FOLDER, required=True, help="A new or empty folder.")
@decision_options
@json_option
def links_command(*, target: Path, as_json: bool, **decision: Any) -> None:
    """Write the links that count, the layout and the keys, for a second opinion by stock in-toto-verify.

    Nothing that a member wrote is copied but signatures: in-toto runs commands from hostile files.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("is not an empty folder", where=str(target))
    outcome = outcome_from(decision, utc_now())
    members = outcome.decided()[1]
    keys = [key for member in members.members for key in member.keys]
    layout = layout_of(members)
    where = str(decision["bundle"] or decision["attestations"] / LAYOUT_FILE)
    with evidence_from(decision) as evidence:
        folder = release_files(evidence, decision["release"])
        found = filtered(folder, members, outcome.answers)
        try:
            signatures = layout_signatures(folder.read(LAYOUT_FILE, MAX_LINK * 4), layout, keys)
        except Rejected as error:
            raise UsageError(error.what, where=where, hint="verify members countersign writes it") from None
    if not signatures:
        raise FoundFalse("no member signed the layout of this quorum.toml", where=where)
    if len(found) < members.threshold:
        raise FoundFalse(
            f"{len(found)} links count, the layout needs {members.threshold}", code="too-few-links"
        )
    write_atomic(target / LAYOUT_FILE, metablock(layout, signatures))
    for name, data in found.items():
        write_atomic(target / name, data)
    signed = {signature["keyid"] for signature in signatures}
    names = []
    for member in members.members:
        for index, key in enumerate(member.keys):
            if key.keyid in signed:
                names.append(f"{member.name}{f'-{index + 1}' if index else ''}.pub")
                write_atomic(target / names[-1], key.pem)
    paths = " ".join(str(target / name) for name in names)
    command = (
        f"in-toto-verify --layout {target / LAYOUT_FILE} --link-dir {target} --verification-keys {paths}"
    )
    if as_json:
        emit_json({"step": STEP, "links": sorted(found), "keys": names, "command": command})
        return
    err().print(f"{target}: {len(found)} links, layout signed by {len(names)} key(s); run:", markup=False)
    out().print(command, markup=False)
