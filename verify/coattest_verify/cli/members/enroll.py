"""``verify members enroll``."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.members.init import (
    as_asked,
    parse_groups,
    parse_members,
    rule_options,
    start_of_day,
)
from coattest_verify.cli.options import attestations_option, read_once, tell_expiry
from coattest_verify.quorum.members.file import MEMBERS_FILE, Member, MemberGroup, MembersFile, utc
from coattest_verify.quorum.members.restarting import proposed_restart
from coattest_verify.quorum.releases import put_file
from coattest_verify.quorum.signing import PROPOSAL_FILE, propose
from coattest_verify.rebuild.answer import read_members


@click.command("enroll")
@click.option("--member", "members", multiple=True, metavar="NAME=KEY.pub", help="Add a member or a key.")
@click.option("--remove", multiple=True, metavar="NAME[=KEY.pub]", help="Remove a member, or one key of it.")
@click.option("--threshold", type=click.IntRange(min=1), help="How many must agree from then on.")
@click.option(
    "--dissent",
    type=click.Choice(["block", "report"]),
    help="Whether dissent and silence prevent a decision.",
)
@click.option("--round", "round_", help="Start a new round: earlier statements no longer count.")
@click.option("--group", "groups", multiple=True, metavar="NAME=K:A,B,C", help="Replace all groups by these.")
@click.option("--no-groups", is_flag=True, help="Remove all groups.")
@click.option(
    "--restart-log",
    is_flag=True,
    help="Begin the log again, lost or forked beyond repair, from what is here: writes it to the folder.",
)
@rule_options(initial=False)
@attestations_option
@json_option
def enroll_command(
    *,
    members: tuple[str, ...],
    remove: tuple[str, ...],
    round_: str | None,
    groups: tuple[str, ...],
    no_groups: bool,
    restart_log: bool,
    days: int | None,
    attestations: Path,
    as_json: bool,
    **changes: Any,
) -> None:
    """Propose the next version of quorum.toml: members, keys, thresholds, a round, an expiry.

    Writes quorum.next.toml. It takes effect when enough members of the present and of the new version (their
    change, more than half) have run verify members countersign; until then the present version stays in
    force. A proposal that a member has signed is never replaced.
    """
    values = {name: value for name, value in changes.items() if value is not None}
    if round_ is not None:
        values["round"] = round_
    if days is not None:
        values["expires"] = start_of_day(utc_now() + timedelta(days=days))
    if groups or no_groups:
        values["groups"] = parse_groups(groups)
    if not (values or members or remove or restart_log):
        raise UsageError("nothing to change", hint="--help lists what can be proposed")
    with read_once(attestations) as evidence:
        current = read_members(evidence, attestations)
        tell_expiry(evidence)
        if members or remove:
            values["members"] = _members(current, parse_members(members), remove)
            gone = {name for name in remove if "=" not in name}
            if gone and "groups" not in values:
                values["groups"] = _without(current, gone)
        files: dict[str, bytes] = {}
        if restart_log:
            values["restart"], files = proposed_restart(evidence, current)
        proposal = as_asked(lambda: current.successor(**values))
        replaced = propose(attestations, evidence, proposal)
        for name, content in files.items():
            put_file(attestations, name, content)
    if replaced and replaced.version == proposal.version:
        err().print(
            f"replaced: the proposal sha256:{replaced.sha256}, which nobody signed; what it changed is gone",
            style="yellow",
        )
    if as_json:
        emit_json(
            {
                "file": str(attestations / PROPOSAL_FILE),
                "version": proposal.version,
                "sha256": proposal.sha256,
                "members": list(proposal.names),
                "threshold": proposal.threshold,
                "expires": utc(proposal.expires),
            }
        )
        return
    err().print(f"{attestations / PROPOSAL_FILE}: version {proposal.version}, sha256:{proposal.sha256}")
    err().print("next: each member runs verify members show, then verify members countersign")


def _members(current: MembersFile, added: tuple[Member, ...], removed: tuple[str, ...]) -> tuple[Member, ...]:
    members = {member.name: list(member.keys) for member in current.members}
    for text in removed:
        name, separator, file = text.partition("=")
        if name not in members:
            raise UsageError(f"{name!r} is not a member", hint=f"one of {', '.join(current.names)}")
        if not separator:
            del members[name]
            continue
        (party,) = parse_members((f"{name}={file}",))
        if party.keys[0] not in members[name]:
            raise UsageError(f"{file} is not a key of {name}")
        members[name].remove(party.keys[0])
    for member in added:
        members.setdefault(member.name, []).extend(member.keys)
    return tuple(Member(name, tuple(keys)) for name, keys in members.items())


def _without(current: MembersFile, gone: set[str]) -> tuple[MemberGroup, ...]:
    """The groups without the members who leave; each group that one leaves is named."""
    groups = []
    for group in current.groups:
        parts = tuple(part for part in group.parts if part not in gone)
        if not parts:
            raise UsageError(
                f"nobody would be left in group {group.name}",
                where=MEMBERS_FILE,
                hint="--group and --no-groups say what the groups are then",
            )
        threshold = min(group.threshold, len(parts))
        if parts != group.parts:
            left = ", ".join(sorted(set(group.parts) & gone))
            err().print(f"group {group.name}: {threshold} of {', '.join(parts)}, without {left}")
        groups.append(replace(group, parts=parts, threshold=threshold))
    return tuple(groups)
