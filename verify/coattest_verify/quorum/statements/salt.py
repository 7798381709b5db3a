"""The secret behind a member's commitment to a result, and the commitment that a statement opens.

``counted_commitments`` in ``coattest_verify.quorum.commitments`` says which commitments count.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import Rejected, UsageError
from coattest.files import read_bounded, state_folder, write_atomic
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.members.file import NAME, MembersFile
from coattest_verify.quorum.statements.claim import SHA256, ProfileResult
from coattest_verify.quorum.statements.statement import RebuildReport, Statement

PURPOSE = "coattest/commitment/v1"
SALT_FILE = "commitment.json"
MAX_SALT_FILE = 4096


@dataclass(frozen=True, slots=True)
class CommitmentSecret:
    """What opens one member's commitment. Secret until its statement is signed. ``salt`` is hex."""

    member: str
    quorum_sha256: str
    round: str
    salt: str

    def digest(self, report: RebuildReport) -> str:
        """The commitment to a build: SHA-256, lower-case hex."""
        target = (report.release, report.architecture, report.tree_sha256, report.lock_sha256)
        return _digest(self, target, report.profiles)


def new_secret(member: str, members: MembersFile) -> CommitmentSecret:
    """A fresh salt for a member's commitment under a members file."""
    return CommitmentSecret(member, members.sha256, members.round, secrets.token_hex(32))


def opened_commitment(statement: Statement) -> str | None:
    """The commitment that a statement opens, or None when it brings no salt."""
    if statement.salt is None:
        return None
    secret = CommitmentSecret(statement.member, statement.quorum_sha256, statement.round, statement.salt)
    return _digest(secret, statement.target, statement.profiles)


def _digest(secret: CommitmentSecret, target: tuple[str, ...], profiles: Mapping[str, ProfileResult]) -> str:
    value = {
        "purpose": PURPOSE,
        "member": secret.member,
        "quorum_sha256": secret.quorum_sha256,
        "round": secret.round,
        "target": list(target),
        "profiles": {name: result.to_json() for name, result in profiles.items()},
        "salt": secret.salt,
    }
    return hashlib.sha256(canonical(value)).hexdigest()


def secret_folder(member: str, members: MembersFile, report: RebuildReport) -> Path:
    """Where this user keeps the secret for a member's commitment to a build of that release and source.

    It lies in the user's state and nowhere else: a salt that a checkout brought is known to its author.
    """
    target = (report.release, report.architecture, report.tree_sha256, report.lock_sha256)
    name = canonical([member, members.sha256, members.round, *target])
    return state_folder("commitments") / hashlib.sha256(name).hexdigest()


def write_secret(folder: Path, secret: CommitmentSecret) -> Path:
    """Write FOLDER/commitment.json, readable by this user only; returns its path."""
    path = folder / SALT_FILE
    values = {name: getattr(secret, name) for name in ("member", "quorum_sha256", "round", "salt")}
    write_atomic(path, canonical({"format": PURPOSE, **values}) + b"\n", 0o600)
    return path


def read_secret(folder: Path, member: str, members: MembersFile) -> CommitmentSecret | None:
    """The secret in FOLDER/commitment.json if it is of this member, members file and round, else None.

    Raises UsageError when the file does not parse.
    """
    path = folder / SALT_FILE
    try:
        fields = Fields(parse(read_bounded(path, MAX_SALT_FILE), max_size=MAX_SALT_FILE), "")
        fields.exactly("format", PURPOSE)
        found = CommitmentSecret(
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
    same = (found.member, found.quorum_sha256, found.round) == (member, members.sha256, members.round)
    return found if same else None


def opening(
    member: str, members: MembersFile, report: RebuildReport, *, needed: bool
) -> CommitmentSecret | None:
    """What opens the member's commitment to this build; raises UsageError where one is ``needed``."""
    folder = secret_folder(member, members, report)
    secret = read_secret(folder, member, members)
    if members.commitments and secret is None and needed:
        raise UsageError(
            "quorum.toml requires a commitment before a result, and this rebuild has none",
            where=str(folder / SALT_FILE),
            hint="verify commit makes it, before the claim is published",
            code="not-committed",
        )
    return secret
