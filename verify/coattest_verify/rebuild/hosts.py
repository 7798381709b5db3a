"""The host that a member names in its statement: a name that it chose, or a pseudonym of this machine.

A pseudonym shows that two members used one machine when both are honest. It proves nothing about a member
that lies (ADR 120).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from coattest.errors import UsageError
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.statement import HOST

MACHINE_ID = Path("/etc/machine-id")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")


def host_name(chosen: str | None, members: MembersFile, machine_id: Path = MACHINE_ID) -> str | None:
    """The name to state: ``chosen``, else this machine's pseudonym under ``members``, else None.

    Raises UsageError for a malformed name.
    """
    if chosen is None:
        return pseudonym(machine_id, members)
    if not HOST.fullmatch(chosen):
        raise UsageError(
            f"not a host name: {ascii(chosen)[:80]}",
            hint="lower-case letters, digits, dots and hyphens, at most 63",
            code="bad-host",
        )
    return chosen


def pseudonym(machine_id: Path, members: MembersFile) -> str | None:
    """``m-`` and 32 hex digits that depend on machine, quorum.toml and round; None without a machine-id.

    machine-id(5): the id itself must not be made public, only a keyed hash of it that the application makes.
    """
    try:
        text = machine_id.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if not _MACHINE_ID.fullmatch(text):
        return None
    message = f"coattest/host/v1 {members.sha256} {members.round}".encode()
    return "m-" + hmac.new(bytes.fromhex(text), message, hashlib.sha256).hexdigest()[:32]
