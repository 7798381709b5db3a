"""What opens a member's commitment to a result, and the commitment that a statement opens.

``early`` in ``coattest_verify.quorum.commitments`` says which commitments count.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import Rejected, UsageError
from coattest.files import write_atomic
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.members.file import NAME, MembersFile
from coattest_verify.quorum.statements.claim import SHA256, ProfileResult
from coattest_verify.quorum.statements.statement import Report, Statement

PURPOSE = "coattest/commitment/v1"
SALT_FILE = "commitment.json"
MAX_SALT_FILE = 4096


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens one member's commitment; secret until its statement is signed. ``salt`` is hex."""

    member: str
    quorum_sha256: str
    round: str
    salt: str

    def digest(self, report: Report) -> str:
        """The commitment to a build: SHA-256, lower-case hex."""
        target = (report.release, report.architecture, report.tree_sha256, report.lock_sha256)
        return _digest(self, target, report.profiles)


def new_opening(member: str, policy: MembersFile) -> Opening:
    """A fresh salt for a member's commitment under a policy."""
    return Opening(member, policy.sha256, policy.round, secrets.token_hex(32))


def digest_of(statement: Statement) -> str | None:
    """The commitment that a statement opens, or None when it brings no salt."""
    if statement.salt is None:
        return None
    opening = Opening(statement.member, statement.quorum_sha256, statement.round, statement.salt)
    return _digest(opening, statement.target, statement.profiles)


def _digest(opening: Opening, target: tuple[str, ...], profiles: Mapping[str, ProfileResult]) -> str:
    value = {
        "purpose": PURPOSE,
        "member": opening.member,
        "quorum_sha256": opening.quorum_sha256,
        "round": opening.round,
        "target": list(target),
        "profiles": {name: result.to_json() for name, result in profiles.items()},
        "salt": opening.salt,
    }
    return hashlib.sha256(canonical(value)).hexdigest()


def keep(folder: Path, opening: Opening) -> Path:
    """Write what opens the commitment to FOLDER/commitment.json, for this user only."""
    path = folder / SALT_FILE
    values = {name: getattr(opening, name) for name in ("member", "quorum_sha256", "round", "salt")}
    write_atomic(path, canonical({"format": PURPOSE, **values}) + b"\n", 0o600)
    return path


def kept(folder: Path, member: str, policy: MembersFile) -> Opening | None:
    """What ``keep`` wrote for this member, policy and round, or None. Raises UsageError."""
    path = folder / SALT_FILE
    try:
        with path.open("rb") as file:
            fields = Fields(parse(file.read(MAX_SALT_FILE + 1), max_size=MAX_SALT_FILE), "")
        fields.exactly("format", PURPOSE)
        found = Opening(
            fields.text("member", NAME),
            fields.text("quorum_sha256", SHA256),
            fields.text("round"),
            fields.text("salt", SHA256),
        )
        fields.done()
    except FileNotFoundError:
        return None
    except Rejected as error:
        raise UsageError(error.what, where=os.fspath(path), code="bad-commitment") from None
    same = (found.member, found.quorum_sha256, found.round) == (member, policy.sha256, policy.round)
    return found if same else None
