"""Checkpoints of the log and members' cosignatures (C2SP tlog-checkpoint, tlog-cosignature, signed-note).

Ed25519 keys sign C2SP's ``cosignature/v1`` (signature type 0x04). ECDSA keys sign the same timestamped text
under type 0xff, which the specification keeps for types without a number. The key's name is the member's.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography.hazmat.primitives.serialization import load_der_public_key

from coattest.errors import Rejected
from coattest_verify.quorum.members.file import NAME, MembersFile
from coattest_verify.signatures.keys import SCHEMES, PublicKey, Signer

MAX_CHECKPOINT = 1024 * 1024
"""Bytes of a checkpoint; one cosignature has about 150."""

MAX_LOG = 1_000_000
"""Entries of a log."""

MAX_SECONDS = 253402300799
"""The last second of the year 9999, the last that has a date (RFC 3339, section 5.6)."""

ECDSA_TYPE = b"\xffcoattest/ecdsa-cosignature/v1"

_LINE = re.compile(rf"\u2014 ({NAME.pattern}) ([A-Za-z0-9+/]+={{0,2}})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: the log's origin, its size in entries, the root hash (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> str:
        """The note's text, final newline included."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint and when each member cosigned it; ``lines`` are their good signature lines."""

    checkpoint: Checkpoint
    times: dict[str, datetime]
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        """The signed note."""
        return (self.checkpoint.body + "\n" + "".join(f"{line}\n" for line in self.lines)).encode()


def origin_of(root: bytes) -> str:
    """The origin of a quorum's log, which names the quorum's root."""
    return f"coattest/{root.hex()}"


def cosign(cosigned: Cosigned, member: str, signer: Signer, now: datetime) -> Cosigned:
    """The checkpoint with one more cosignature; an earlier one of the same key is replaced."""
    key = signer.public
    seconds = int(now.timestamp())
    signature = signer.sign(_message(cosigned.checkpoint, seconds))
    data = _key_id(member, key) + seconds.to_bytes(8, "big") + signature
    line = f"\u2014 {member} {base64.b64encode(data).decode()}"
    others = [other for other in cosigned.lines if _identity(other) != _identity(line)]
    times = {**cosigned.times, member: datetime.fromtimestamp(seconds, timezone.utc)}
    return Cosigned(cosigned.checkpoint, times, tuple(sorted([*others, line])))


def read_checkpoint(data: bytes, origin: str, members: MembersFile) -> Cosigned:
    """Parse a checkpoint and check its cosignatures by members. Raises Rejected.

    Signatures of unknown keys are ignored; a wrong one of a known key invalidates the note (signed-note).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Rejected("not UTF-8") from None
    body, blank, signatures = text.rpartition("\n\n")
    lines = body.split("\n")
    if not blank or len(lines) != 3 or lines[0] != origin or not _SIZE.fullmatch(lines[1]):
        raise Rejected("not a checkpoint of this quorum's log")
    size = int(lines[1])
    try:
        root = base64.b64decode(lines[2].encode("ascii"), validate=True)
    except ValueError:
        root = b""
    if len(root) != 32 or size > MAX_LOG or not signatures.endswith("\n"):
        raise Rejected("not a checkpoint: size, root hash or final newline")
    return _check(Checkpoint(origin, size, root), signatures[:-1].split("\n"), members)


def _check(checkpoint: Checkpoint, lines: list[str], members: MembersFile) -> Cosigned:
    known = {
        (member.name, _key_id(member.name, key)): key for member in members.members for key in member.keys
    }
    times: dict[str, datetime] = {}
    good: list[str] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise Rejected("a line that is not a signature")
        name, identity, data = match[1], *_split(match[2])
        key = known.get((name, identity))
        if key is None:
            continue
        seconds = int.from_bytes(data[:8], "big")
        if not key.verifies(data[8:], _message(checkpoint, seconds)) or seconds > MAX_SECONDS:
            raise Rejected(f"the cosignature of {name} is wrong", code="bad-signature")
        moment = datetime.fromtimestamp(seconds, timezone.utc)
        times[name] = max(moment, times.get(name, moment))
        good.append(line)
    return Cosigned(checkpoint, times, tuple(good))


def _message(checkpoint: Checkpoint, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{checkpoint.body}".encode()


def _key_id(name: str, key: PublicKey) -> bytes:
    if key.scheme == SCHEMES["ed25519"]:
        material = b"\x04" + load_der_public_key(key.spki).public_bytes_raw()  # type: ignore[union-attr]
    else:
        material = ECDSA_TYPE + key.spki
    return hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]


def _identity(line: str) -> tuple[str, bytes]:
    match = _LINE.fullmatch(line)
    return (match[1], _split(match[2])[0]) if match else ("", b"")


def _split(text: str) -> tuple[bytes, bytes]:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Rejected("a signature that is not base64") from None
    return data[:4], data[4:]
