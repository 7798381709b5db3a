"""``verify release links``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse, UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import decision_options
from coattest_verify.quorum.authority import evidence_from, outcome_from, tell_end
from coattest_verify.quorum.links import (
    LAYOUT_FILE,
    STEP,
    filtered,
    joined_layout,
    layout_of,
    members_signatures,
)
from coattest_verify.quorum.releases import release_files


@click.command("links")
@click.option("--out", "target", type=NEW_FOLDER, required=True, help="A new or empty folder.")
@decision_options
@json_option
def links_command(*, target: Path, as_json: bool, **decision: Any) -> None:
    """Write the links that count, the layout and the keys, for a second opinion by stock in-toto-verify.

    Nothing that a member wrote is copied but signatures: in-toto runs commands from hostile files.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("is not an empty folder", where=str(target))
    outcome = outcome_from(decision, utc_now())
    tell_end(outcome.warnings)
    members = outcome.decided()[1]
    with evidence_from(decision) as evidence:
        found = filtered(release_files(evidence, decision["release"]), members, outcome.answers)
        signatures = members_signatures(evidence, members)
    if not signatures:
        raise FoundFalse(
            f"no member signed the layout of version {members.version}",
            where=str(decision["bundle"] or decision["attestations"]),
            hint="verify members countersign writes it",
        )
    if len(found) < members.threshold:
        raise FoundFalse(
            f"{len(found)} links count, the layout needs {members.threshold}", code="too-few-links"
        )
    write_atomic(target / LAYOUT_FILE, joined_layout(layout_of(members), signatures))
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
    err().print(f"{target}: {len(found)} links, layout signed by {len(names)} key(s); run:")
    out().print(command)
