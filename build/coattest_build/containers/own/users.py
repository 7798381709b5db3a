"""Who a container's program runs as: USER, resolved from the image's own /etc/passwd and /etc/group.

As Docker does it (moby/sys, user.GetExecUser): a number is a user id and never a name; a group that is named
replaces the groups of the user. What Docker takes for 0 since it is no number is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coattest_build.containers.errors import beyond_limit, not_read

MAX_DATABASE = 4 << 20
"""Bytes of /etc/passwd or /etc/group."""
MAX_ID = (1 << 31) - 1
"""The largest id that Docker takes (``maxID`` of moby/sys, user)."""
MAX_GROUPS = 65_536
"""``NGROUPS_MAX`` of Linux."""
_NUMBER = re.compile(r"0*[0-9]{1,10}")
_NUMERIC = re.compile(r"[+-]?[0-9]+")
"""What Go's strconv.Atoi takes: never a name, also where it is no id."""


@dataclass(frozen=True, slots=True)
class ContainerUser:
    """Ids, the groups with the first one in them, and the home folder (``/`` where the image has no user)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _rows(data: bytes, columns: int) -> list[list[str]]:
    """The lines of a database; ones without a number, which Docker takes for 0, are left out."""
    rows = []
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        row = line.strip().split(":")
        row += [""] * (columns - len(row))
        if row[0] and _number(row[2]) is not None:
            rows.append(row)
    return rows


def _first(rows: list[list[str]], name: str, number: int | None) -> list[str] | None:
    """The first line of this number, or of this name where there is none."""
    if number is None and _NUMERIC.fullmatch(name):
        return None
    return next((row for row in rows if (row[0] == name if number is None else int(row[2]) == number)), None)


def _number(text: str) -> int | None:
    value = int(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and value <= MAX_ID else None


def _id_of(text: str, what: str) -> int:
    """An id that no line of the database has. Raises ContainerError."""
    found = _number(text)
    if found is None:
        raise not_read(
            f"USER names the {what} {text[:80]!a}, which the image does not have",
            hint="give a number, or make it in the image",
        )
    return found


def resolve_user(user: str, passwd: bytes, group: bytes) -> ContainerUser:
    """Who ``user`` (``name-or-uid[:group-or-gid]``, may be empty) is. Raises ContainerError."""
    who, _, group_name = user.partition(":")
    wanted = 0 if not who else _number(who)
    found = _first(_rows(passwd, 7), who, wanted)
    if found is not None:
        uid, gid, home = int(found[2]), _id_of(found[3], "group"), found[5] or "/"
    else:
        uid, gid, home = _id_of(who, "user") if who else 0, 0, "/"
    groups = _rows(group, 4)
    if group_name:
        named = _first(groups, group_name, _number(group_name))
        gid = int(named[2]) if named is not None else _id_of(group_name, "group")
        return ContainerUser(uid, gid, (gid,), home)
    more = {int(row[2]) for row in groups if found is not None and found[0] in row[3].split(",")}
    if len(more) >= MAX_GROUPS:
        raise beyond_limit(f"a user of more than {MAX_GROUPS} groups", where="/etc/group")
    return ContainerUser(uid, gid, (gid, *sorted(more - {gid})), home)
