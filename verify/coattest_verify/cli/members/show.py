"""``verify quorum-policy``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Column, Table

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import attestations_option, root_option
from coattest_verify.quorum.directory import Folder
from coattest_verify.quorum.errors import PolicyRefused
from coattest_verify.quorum.members.chain import follow
from coattest_verify.quorum.members.file import MembersFile, utc
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.signing import Pending, pending


@click.command("quorum-policy")
@attestations_option
@root_option
@json_option
def quorum_policy(*, attestations: Path, root: bytes | None, as_json: bool) -> int:
    """Show quorum.toml, or the proposal that waits for signatures, and check it against the pinned root.

    Exit code 0: in force. 1: refused, or signatures are lacking.
    """
    with Folder(attestations) as folder:
        state = pending(folder)
        problem = _problem(folder, root)
    if as_json:
        emit_json(_json(state, problem))
    else:
        _show(state)
        for lack in state.lacks:
            err().print(f"lacks {lack}", style="yellow", markup=False)
        if problem:
            err().print(f"quorum.toml: {problem}", style="red", markup=False)
    return 1 if problem or state.lacks else 0


def _problem(folder: Folder, root: bytes | None) -> str | None:
    memory = Roots()
    try:
        pinned = memory.pinned(root)
        follow(folder, pinned, seen=memory.seen(pinned), now=utc_now())
    except UsageError:
        return "not checked: no root is pinned (--root sha256:HEX)"
    except PolicyRefused as error:
        return error.what
    return None


def _show(state: Pending) -> None:
    policy = state.policy
    out().print(f"{state.file}, version {policy.version}, sha256:{policy.sha256}", markup=False)
    for name, value in describe(policy):
        out().print(f"{name:18}  {value}", markup=False)
    table = Table("member", Column("keys", overflow="fold"), "signed")
    for member in policy.members:
        fingerprints = "\n".join(f"{key.scheme} sha256:{key.fingerprint}" for key in member.keys)
        table.add_row(member.name, fingerprints, "yes" if member.name in state.signed else "no")
    out().print(table)


def describe(policy: MembersFile) -> list[tuple[str, str]]:
    """The rules of a policy in words."""
    rows = [
        ("agreement", f"{policy.threshold} of {len(policy.members)} members"),
        *[
            (f"group {group.name}", f"{group.threshold} of {', '.join(group.parts)}")
            for group in policy.groups
        ],
        ("dissent", "blocks, and silence is not agreement" if policy.dissent == "block" else "is reported"),
        ("round", policy.round),
        ("statements", f"count for {policy.max_age_days} days"),
        (
            "kernel",
            "compiled by each member" if policy.require_compiled_kernel else "from a cache counts too",
        ),
        ("expires", utc(policy.expires)),
    ]
    if policy.routes > 1:
        rows.append(("diversity", f"{policy.routes} build routes"))
    if policy.hosts:
        rows.append(("diversity", f"{policy.hosts} hosts, as the members state them"))
    if policy.commitments:
        rows.append(("commitments", "a result counts only when it was committed to before any was known"))
    if policy.reviews:
        rows.append(("reviews", f"{policy.reviews} members reviewed the source"))
    rows.append(("revocation", f"by {policy.revoke_threshold} of {len(policy.members)} members"))
    return rows


def _json(state: Pending, problem: str | None) -> dict[str, object]:
    policy = state.policy
    return {
        "file": state.file,
        "version": policy.version,
        "sha256": policy.sha256,
        "previous": policy.previous,
        "expires": utc(policy.expires),
        "round": policy.round,
        "threshold": policy.threshold,
        "groups": [
            {"name": group.name, "members": list(group.parts), "threshold": group.threshold}
            for group in policy.groups
        ],
        "dissent": policy.dissent,
        "max_age_days": policy.max_age_days,
        "require_compiled_kernel": policy.require_compiled_kernel,
        "routes": policy.routes,
        "hosts": policy.hosts,
        "commitments": policy.commitments,
        "reviews": policy.reviews,
        "revoke_threshold": policy.revoke_threshold,
        "members": [
            {"name": member.name, "keys": [f"sha256:{key.fingerprint}" for key in member.keys]}
            for member in policy.members
        ],
        "signed": list(state.signed),
        "lacks": list(state.lacks),
        "in_force": problem is None and not state.lacks,
        "problem": problem,
    }
