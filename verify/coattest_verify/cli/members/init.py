"""``verify members init``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from coattest.errors import Rejected, UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.shell import Decorator, err, json_option, option_group, utc_now
from coattest.strictjson import shown
from coattest_verify.cli.options import attestations_option
from coattest_verify.quorum.members.file import (
    DEFAULT_MAX_AGE_DAYS,
    MAX_DIVERSITY,
    MEMBERS_FILE,
    NAME,
    Member,
    MemberGroup,
    MembersFile,
    utc,
)
from coattest_verify.quorum.releases import ATTRIBUTES_FILE, ATTRIBUTES_TEXT
from coattest_verify.signatures.keys import PublicKey, load_public

DAYS = click.IntRange(1, 3650)
RULES = (
    ("--days", DAYS, 365, "In how many days it expires."),
    ("--max-age-days", DAYS, DEFAULT_MAX_AGE_DAYS, "How old a statement may be."),
    ("--revoke-threshold", click.IntRange(min=1), 1, "How many members it takes to revoke a release."),
    (
        "--routes",
        click.IntRange(1, MAX_DIVERSITY),
        1,
        "How many different build routes the agreeing members must show.",
    ),
    (
        "--hosts",
        click.IntRange(0, MAX_DIVERSITY),
        0,
        "How many different hosts the agreeing members must state.",
    ),
    (
        "--commitments",
        click.IntRange(min=0),
        0,
        "How many agreeing members must have committed to their result before any was known.",
    ),
    ("--reviews", click.IntRange(min=0), 0, "How many members must have reviewed the source."),
    (
        "--change",
        click.IntRange(min=0),
        0,
        "How many members must sign the next version, more than half; 0: the threshold, or more than half.",
    ),
)
"""The rules that are numbers: option, range, default for version 1, help."""


def rule_options(*, initial: bool) -> Decorator:
    """An option for each of RULES; the defaults are only for the initial version."""
    return option_group(
        *(
            click.option(
                name, type=numbers, default=default if initial else None, show_default=initial, help=meaning
            )
            for name, numbers, default, meaning in RULES
        )
    )


@click.command("init")
@click.option(
    "--member",
    "members",
    multiple=True,
    required=True,
    metavar="NAME=KEY.pub",
    help="A member and a public key; repeat the name for a second key.",
)
@click.option("--threshold", type=click.IntRange(min=1), help="How many must agree; default: all.")
@click.option(
    "--dissent",
    type=click.Choice(["block", "report"]),
    default="block",
    show_default=True,
    help="Whether dissent and silence prevent a decision.",
)
@click.option(
    "--round", "round_", default="1", show_default=True, help="Statements of other rounds do not count."
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME=K:A,B,C",
    help="K of these members or groups must agree too.",
)
@rule_options(initial=True)
@click.option("--cached-kernel-counts", is_flag=True, help="Count statements whose kernel came from a cache.")
@attestations_option
@json_option
def init_members_command(
    *,
    members: tuple[str, ...],
    threshold: int | None,
    dissent: str,
    round_: str,
    days: int,
    max_age_days: int,
    groups: tuple[str, ...],
    revoke_threshold: int,
    cached_kernel_counts: bool,
    attestations: Path,
    as_json: bool,
    **diversity: Any,
) -> None:
    """Write version 1 of quorum.toml. It counts once every member has run verify members countersign.

    It prints the root, a digest: members give it to verifiers over another channel than these files.
    """
    path = attestations / MEMBERS_FILE
    if path.exists() or path.is_symlink():
        raise UsageError(
            "already exists",
            where=str(path),
            hint="verify members enroll proposes a new version",
            code="exists",
        )
    values = {
        "version": 1,
        "previous": None,
        "expires": start_of_day(utc_now() + timedelta(days=days)),
        "round": round_,
        "threshold": threshold
        if threshold is not None
        else len({text.partition("=")[0] for text in members}),
        "dissent": dissent,
        "members": parse_members(members),
        "groups": parse_groups(groups),
        "revoke_threshold": revoke_threshold,
        "max_age_days": max_age_days,
        "require_compiled_kernel": not cached_kernel_counts,
        **diversity,
    }
    file = as_asked(lambda: MembersFile.make(**values))
    write_atomic(path, file.raw)
    write_atomic(attestations / ATTRIBUTES_FILE, ATTRIBUTES_TEXT)
    if as_json:
        emit_json(
            {
                "file": str(path),
                "root": f"sha256:{file.sha256}",
                "threshold": file.threshold,
                "members": list(file.names),
                "expires": utc(file.expires),
            }
        )
        return
    err().print(f"{path}: {file.threshold} of {len(file.members)} members")
    err().print(f"root sha256:{file.sha256}")
    err().print("next: every member runs verify members countersign")


def as_asked(make: Callable[[], MembersFile]) -> MembersFile:
    """The members file that the options ask for. Raises UsageError for one that breaks a rule, or that no
    release could ever be decided under: each member shows one route and states one host.
    """
    try:
        file = make()
    except Rejected as error:
        raise UsageError(error.what, where=error.where, hint="nothing was written", code=error.code) from None
    for name, wanted in (("routes", file.routes), ("hosts", file.hosts)):
        if wanted > len(file.members):
            raise UsageError(
                f"{name}: each member has one, so {len(file.members)} in all never have {wanted}",
                where=MEMBERS_FILE,
                hint="nothing was written",
                code="members-malformed",
            )
    return file


def parse_members(values: tuple[str, ...]) -> tuple[Member, ...]:
    """Members from ``NAME=KEY.pub`` pairs, keys of one name joined. Raises UsageError."""
    keys: dict[str, list[PublicKey]] = {}
    for value in values:
        name, separator, file = value.partition("=")
        if not separator or not name or not file:
            raise UsageError("not NAME=KEY.pub", where=value[:120])
        if not NAME.fullmatch(name):
            raise UsageError(
                f"a member cannot be called {shown(name)}",
                hint="1 to 32 of a-z, 0-9 and -, with no - at an end",
                code="members-malformed",
            )
        keys.setdefault(name, []).append(load_public(Path(file)))
    return tuple(Member(name, tuple(found)) for name, found in keys.items())


def parse_groups(values: tuple[str, ...]) -> tuple[MemberGroup, ...]:
    """Groups from ``NAME=K:A,B,C``. Raises UsageError."""
    found = []
    for value in values:
        name, _, rest = value.partition("=")
        count, _, members = rest.partition(":")
        if not name or not (count.isascii() and count.isdecimal() and len(count) <= 4) or not members:
            raise UsageError("not NAME=K:A,B,C", where=value[:120])
        found.append(MemberGroup(name, tuple(members.split(",")), int(count)))
    return tuple(found)


def start_of_day(moment: datetime) -> datetime:
    """The start of that day in UTC, so that expiries are easy to compare by eye."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
