"""Checkpoints of the log and members' cosignatures (C2SP tlog-checkpoint, tlog-cosignature, signed-note).

``log/checkpoint`` has the log's own signature alone. The log's key is no secret: it follows from the origin,
so that whoever appends can write the file, which then says which log this is and nothing about who wrote it.
What counts are cosignatures: ``log/cosignature.MEMBER`` is a whole note of one member, with the size and root
that this member signed, so that two members who cosign at the same time write two files.

Ed25519 keys sign C2SP's ``cosignature/v1`` (signature type 0x04). ECDSA keys sign the same timestamped text
under type 0xff, which the specification keeps for types without a number. The key's name is the member's.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from coattest.errors import Rejected
from coattest_verify.quorum.members.file import MAX_LOG, NAME
from coattest_verify.signatures.keys import SCHEMES, PublicKey, Signer

MAX_CHECKPOINT = 16 * 1024
"""Bytes of a checkpoint or a cosignature file; one cosignature has about 150, and a member has few keys."""

MAX_SECONDS = 253402300799
"""The last second of the year 9999, the last that has a date (RFC 3339, section 5.6)."""

ECDSA_TYPE = b"\xffcoattest/ecdsa-cosignature/v1"

_LINE = re.compile(rf"\u2014 ({NAME.pattern}) ([A-Za-z0-9+/]+={{0,2}})")
_ORIGIN = re.compile(rb"coattest/[0-9a-f]{64}/[0-9a-f]{64}(?=\n)")
_SIZE = re.compile(r"0|[1-9][0-9]{0,8}")
_LOG_KEY = b"coattest/log-key/v1\n"


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

    def encode(self) -> bytes:
        """The checkpoint as the log signs it: the same bytes, whoever writes them."""
        key = log_key(self.origin)
        public = b"\x01" + key.public_key().public_bytes_raw()
        signed = _identifier(self.origin, public) + key.sign(self.body.encode())
        return f"{self.body}\n\u2014 {self.origin} {base64.b64encode(signed).decode()}\n".encode()


@dataclass(frozen=True, slots=True)
class Cosignature:
    """One member's note: the tree head that it signed, when it did last, and its good signature lines."""

    member: str
    checkpoint: Checkpoint
    time: datetime
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        """The signed note."""
        return (self.checkpoint.body + "\n" + "".join(f"{line}\n" for line in self.lines)).encode()


def origin_of(root: bytes, restart: str = "") -> str:
    """The origin of a quorum's log: the quorum's root, and the version that began the log again (hex).

    So the log has another key then, and no cosignature on one log is one on the other.
    """
    return f"coattest/{root.hex()}" + (f"/{restart}" if restart else "")


def named_origin(data: bytes, root: bytes) -> str:
    """The origin that a checkpoint or cosignature names, if it is one of this quorum's; else the first."""
    found = _ORIGIN.match(data)
    named = found[0].decode() if found else ""
    return named if named.startswith(f"{origin_of(root)}/") else origin_of(root)


def log_key(origin: str) -> Ed25519PrivateKey:
    """The log's key, which anybody can compute."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(_LOG_KEY + origin.encode()).digest())


def cosign(
    checkpoint: Checkpoint, member: str, signer: Signer, now: datetime, earlier: Cosignature | None = None
) -> Cosignature:
    """The member's note on a checkpoint. Lines of its other keys on the same one stay."""
    seconds = int(now.timestamp())
    signature = signer.sign(_message(checkpoint, seconds))
    data = _key_id(member, signer.public) + seconds.to_bytes(8, "big") + signature
    line = f"\u2014 {member} {base64.b64encode(data).decode()}"
    before = earlier.lines if earlier and earlier.checkpoint == checkpoint else ()
    others = [other for other in before if _identity(other) != _identity(line)]
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return Cosignature(member, checkpoint, moment, tuple(sorted([*others, line])))


def read_checkpoint(data: bytes, origin: str) -> Checkpoint:
    """The tree head in ``log/checkpoint``. Raises Rejected unless it is exactly what the log signs."""
    checkpoint, _ = _note(data, origin)
    if checkpoint.encode() != data:
        raise Rejected("not signed by the log, or with lines that are not the log's", code="bad-signature")
    return checkpoint


def read_cosignature(data: bytes, origin: str, member: str, keys: Iterable[PublicKey]) -> Cosignature:
    """A member's note, signed by at least one of ``keys``. Raises Rejected.

    Signatures of unknown keys are ignored; a wrong one of a known key invalidates the note (signed-note).
    """
    checkpoint, lines = _note(data, origin)
    known = {_key_id(member, key): key for key in keys}
    times: list[datetime] = []
    good: list[str] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise Rejected("a line that is not a signature")
        name, (identity, signed) = match[1], _split(match[2])
        key = known.get(identity)
        if name != member or key is None:
            continue
        seconds = int.from_bytes(signed[:8], "big")
        if not key.verifies(signed[8:], _message(checkpoint, seconds)) or seconds > MAX_SECONDS:
            raise Rejected(f"the cosignature of {name} is wrong", code="bad-signature")
        times.append(datetime.fromtimestamp(seconds, timezone.utc))
        good.append(line)
    if not good:
        raise Rejected(f"not signed by a key of {member}", code="bad-signature")
    return Cosignature(member, checkpoint, max(times), tuple(good))


def _note(data: bytes, origin: str) -> tuple[Checkpoint, list[str]]:
    """A note's tree head and its signature lines. Raises Rejected."""
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
    return Checkpoint(origin, size, root), signatures[:-1].split("\n")


def _message(checkpoint: Checkpoint, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{checkpoint.body}".encode()


def _key_id(name: str, key: PublicKey) -> bytes:
    if key.scheme == SCHEMES["ed25519"]:
        return _identifier(name, b"\x04" + load_der_public_key(key.spki).public_bytes_raw())  # type: ignore[union-attr]
    return _identifier(name, ECDSA_TYPE + key.spki)


def _identifier(name: str, material: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]


def _identity(line: str) -> bytes:
    match = _LINE.fullmatch(line)
    return _split(match[2])[0] if match else b""


def _split(text: str) -> tuple[bytes, bytes]:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Rejected("a signature that is not base64") from None
    return data[:4], data[4:]
