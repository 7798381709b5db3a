"""``verify members show``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import quorum_options, tell_expiry
from coattest_verify.cli.words import describe_rules
from coattest_verify.quorum.members.chain import follow
from coattest_verify.quorum.members.file import MEMBERS_FILE, utc
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.signing import Pending, pending

PLAIN = (
    *("version", "sha256", "previous", "round", "threshold", "dissent", "max_age_days"),
    *("require_compiled_kernel", "routes", "hosts", "commitments", "reviews", "revoke_threshold"),
)
"""Values of a members file that ``--json`` has as they are."""


@click.command("show")
@quorum_options
@json_option
def show_members_command(*, attestations: Path, root: bytes | None, as_json: bool) -> int:
    """Show quorum.toml, or the proposal that waits for signatures, and check it against the pinned root.

    Exit code 0: in force. 1: refused, or signatures are missing.
    """
    with Folder(attestations) as folder:
        state = pending(folder)
        tell_expiry(folder)
        unfit = _chain_finding(folder, root)
    if as_json:
        emit_json(_json(state, unfit))
    else:
        _show(state)
        for finding in state.lacks:
            err().print(f"not in force: {finding}", style="yellow")
        if unfit:
            err().print(str(unfit), style="red")
    return 1 if unfit or state.lacks else 0


def _chain_finding(folder: Folder, root: bytes | None) -> Finding | None:
    try:
        pinned, seen = Roots().known(root)
        follow(folder, pinned, seen=seen, now=utc_now())
    except UsageError as error:
        return Finding(error.code, MEMBERS_FILE, "not checked: no root is pinned (--root sha256:HEX)")
    except Rejected as error:
        return Finding(error.code, MEMBERS_FILE, error.what)
    return None


def _show(state: Pending) -> None:
    members = state.members
    out().print(f"{state.file}, version {members.version}, sha256:{members.sha256}")
    out().show_facts(describe_rules(members))
    out().show_rows(
        ("member", "keys", "signed"),
        [
            (
                member.name,
                [f"{key.scheme} sha256:{key.fingerprint}" for key in member.keys],
                "yes" if member.name in state.signed else "no",
            )
            for member in members.members
        ],
    )


def _json(state: Pending, finding: Finding | None) -> dict[str, object]:
    members = state.members
    return {
        **{name: getattr(members, name) for name in PLAIN},
        "file": state.file,
        "expires": utc(members.expires),
        "change": members.changing,
        "groups": [
            {"name": group.name, "members": list(group.parts), "threshold": group.threshold}
            for group in members.groups
        ],
        "restart": asdict(members.restart) if members.restart else None,
        "members": [
            {"name": member.name, "keys": [f"sha256:{key.fingerprint}" for key in member.keys]}
            for member in members.members
        ],
        "signed": list(state.signed),
        "lacks": [finding.to_json() for finding in state.lacks],
        "in_force": finding is None and not state.lacks,
        "finding": finding.to_json() if finding else None,
    }
