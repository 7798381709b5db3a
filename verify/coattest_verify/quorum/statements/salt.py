"""The secret behind a member's commitment to a result, and the commitment that a statement opens.

A commitment binds the quorum's root, the member, source, architecture and every digest, and neither a version
of the members file nor a round. ``coattest_verify.quorum.commitments`` says which ones count.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from coattest.errors import Rejected, UsageError
from coattest.files import read_bounded, state_folder, write_atomic
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.members.file import NAME
from coattest_verify.quorum.statements.claim import SHA256
from coattest_verify.quorum.statements.statement import RebuildReport, Statement

PURPOSE = "coattest/commitment/v1"
SALT_FILE = "commitment.json"
MAX_SALT_FILE = 4096


@dataclass(frozen=True, slots=True)
class CommitmentSecret:
    """What opens one member's commitment. Secret until its statement is signed. ``root``, ``salt``: hex."""

    member: str
    root: str
    salt: str

    def digest(self, built: RebuildReport | Statement) -> str:
        """The commitment to a build: SHA-256, lower-case hex."""
        value = {
            "purpose": PURPOSE,
            "member": self.member,
            "root": self.root,
            "source": _source(built),
            "profiles": {name: result.to_json() for name, result in built.profiles.items()},
            "salt": self.salt,
        }
        return hashlib.sha256(canonical(value)).hexdigest()


def new_secret(member: str, root: bytes) -> CommitmentSecret:
    """A fresh salt for a member's commitment in the quorum with ``root``."""
    return CommitmentSecret(member, root.hex(), secrets.token_hex(32))


def opened_commitment(statement: Statement, root: bytes) -> str | None:
    """The commitment that a statement opens, or None when it brings no salt."""
    if statement.salt is None:
        return None
    return CommitmentSecret(statement.member, root.hex(), statement.salt).digest(statement)


def _source(built: RebuildReport | Statement) -> list[str]:
    return [built.architecture, built.tree_sha256, built.lock_sha256]


def secret_folder(member: str, root: bytes, report: RebuildReport) -> Path:
    """Where this user keeps the secret for a member's commitment to a build of that source.

    It lies in the user's state and nowhere else: a salt that a checkout brought is known to its author.
    """
    name = canonical([member, root.hex(), *_source(report)])
    return state_folder("commitments") / hashlib.sha256(name).hexdigest()


def write_secret(folder: Path, secret: CommitmentSecret) -> Path:
    """Write FOLDER/commitment.json, readable by this user only; returns its path."""
    path = folder / SALT_FILE
    write_atomic(path, canonical({"format": PURPOSE, **asdict(secret)}) + b"\n", 0o600)
    return path


def read_secret(folder: Path, member: str, root: bytes) -> CommitmentSecret | None:
    """The secret in FOLDER/commitment.json if it is of this member and quorum, else None.

    Raises UsageError when the file does not parse.
    """
    path = folder / SALT_FILE
    try:
        fields = Fields(parse(read_bounded(path, MAX_SALT_FILE), max_size=MAX_SALT_FILE), "")
        fields.exactly("format", PURPOSE)
        found = CommitmentSecret(
            fields.text("member", NAME), fields.text("root", SHA256), fields.text("salt", SHA256)
        )
        fields.done()
    except FileNotFoundError:
        return None
    except Rejected as error:
        raise UsageError(error.what, where=os.fspath(path), code="bad-commitment") from None
    return found if (found.member, found.root) == (member, root.hex()) else None


def opening(member: str, root: bytes, report: RebuildReport) -> CommitmentSecret | None:
    """What opens the member's commitment to this build, or None when it made none on this machine."""
    return read_secret(secret_folder(member, root, report), member, root)
