"""CloudTrail's digest files: are the logs complete and unchanged? Pure.

Source: CloudTrail User Guide, "Custom implementations of CloudTrail log file integrity validation" and
"CloudTrail digest file structure". A digest is signed with SHA-256 and RSA (PKCS #1 v1.5); what is signed is
its end time, its path, the SHA-256 of its content and the previous digest's signature. It lists the SHA-256
of each log file's uncompressed content. A trail of several Regions has a chain of digests for each.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from coattest.errors import UsageError
from coattest.findings import Finding
from coattest.jsontext import unique_names

NO_DIGESTS: Final = "no-digests"

_STAMP = re.compile(r"_[0-9]{8}T[0-9]{6}Z\.json\.gz$")
"""The end of a digest's name, ACCOUNT_CloudTrail-Digest_REGION_TRAIL_REGION_TIME.json.gz: the rest
identifies a chain ("Finding your CloudTrail log files", "CloudTrail digest file structure")."""


@dataclass(frozen=True, slots=True)
class DigestFile:
    """A digest file as stored in S3: uncompressed content, and the signature (hex) of the object's
    metadata.
    """

    content: bytes
    signature: str
    where: str


@dataclass(frozen=True, slots=True)
class _Digest:
    """A parsed digest."""

    start: datetime
    end: datetime
    end_text: str
    path: str
    fingerprint: str
    previous_signature: str | None
    previous_hash: str | None
    logs: Mapping[str, str]
    file: DigestFile


def public_keys(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Fingerprint to PKCS #1 DER, from the output of ListPublicKeys. Raises UsageError."""
    try:
        return {
            item["Fingerprint"]: item["Value"]
            if isinstance(item["Value"], bytes)
            else base64.b64decode(item["Value"], validate=True)
            for item in document["PublicKeyList"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "not the output of list-public-keys", where="--public-keys", code="bad-event"
        ) from error


def check_digests(
    digests: Sequence[DigestFile],
    *,
    keys: Mapping[str, bytes],
    logs: Mapping[str, str],
    since: datetime | None,
    until: datetime | None,
    region: str | None = None,
    account: str = "",
) -> tuple[Finding, ...]:
    """Every way in which the logs of a window differ from what CloudTrail delivered.

    ``keys`` are ``public_keys``; ``logs`` maps a log's path (bucket/object, or any end of it) to the
    SHA-256 of its uncompressed content, in hex. Without a window the digests' own range is checked. With
    ``region`` there must be digests of that Region's logs, and of ``account``'s: those of another show
    nothing about them.
    """
    chains: dict[str, list[_Digest]] = {}
    parsed = [_parse(file) for file in digests]
    for digest in sorted((item for item in parsed if isinstance(item, _Digest)), key=lambda item: item.end):
        chains.setdefault(_STAMP.sub("", digest.path.rsplit("/", 1)[-1]), []).append(digest)
    if not digests:
        return (Finding(NO_DIGESTS, "logs", "no digest files: nothing shows that the logs are complete"),)
    found = [item for item in parsed if isinstance(item, Finding)]
    own = f"{account}_CloudTrail-Digest_{region}_"
    if region is not None and not any(name.startswith(own) if account else own in name for name in chains):
        of = f"{account} in {region}" if account else region
        detail = f"no digest files of {of}: nothing shows that its logs are complete"
        found.append(Finding(NO_DIGESTS, "logs", detail))
    for _, chain in sorted(chains.items()):
        for earlier, digest in zip((None, *chain), chain, strict=False):
            found += _signed(digest, keys)
            found += _linked(earlier, digest) if earlier else ()
            found += _listed(digest, logs)
        if since is not None and chain[0].start > since:
            found.append(_gap(since, chain[0].start, chain[0]))
        if until is not None and chain[-1].end < until:
            found.append(_gap(chain[-1].end, until, chain[-1]))
    return tuple(found)


def digest_range(
    digests: Sequence[DigestFile], *, region: str, account: str
) -> tuple[datetime, datetime] | None:
    """From when to when the digests of an account's Region are; None without any."""
    own = f"{account}_CloudTrail-Digest_{region}_"
    parsed = [item for item in map(_parse, digests) if isinstance(item, _Digest)]
    mine = [item for item in parsed if item.path.rsplit("/", 1)[-1].startswith(own)]
    return (min(item.start for item in mine), max(item.end for item in mine)) if mine else None


def _of_file(code: str, digest: _Digest, what: str) -> Finding:
    """A finding about a digest file, which it names."""
    return Finding(code, digest.file.where, f"{digest.file.where}{what}")


def _gap(begin: datetime, end: datetime, beside: _Digest) -> Finding:
    """Time that no digest covers."""
    return Finding(
        "hours-missing",
        beside.file.where,
        f"no digest from {begin:%Y-%m-%dT%H:%M:%SZ} to {end:%Y-%m-%dT%H:%M:%SZ}, beside {beside.file.where}",
    )


def is_digest(content: bytes) -> bool:
    """Whether an unpacked file is meant as a digest: it says of which hours, which no log file does."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "digestEndTime" in raw and "Records" not in raw


def _parse(digest: DigestFile) -> _Digest | Finding:
    """The digest, or a finding that it is none: one unreadable file does not hide the others."""
    try:
        raw = json.loads(digest.content, object_pairs_hook=unique_names)
        first = raw["previousDigestSignature"] is None
        return _Digest(
            start=_time(raw["digestStartTime"]),
            end=_time(raw["digestEndTime"]),
            end_text=raw["digestEndTime"],
            path=f"{_text(raw['digestS3Bucket'])}/{_text(raw['digestS3Object'])}",
            fingerprint=_text(raw["digestPublicKeyFingerprint"]),
            previous_signature=None if first else _text(raw["previousDigestSignature"]),
            previous_hash=None if first else _text(raw["previousDigestHashValue"]),
            logs={
                f"{_text(item['s3Bucket'])}/{_text(item['s3Object'])}": _text(item["hashValue"])
                for item in raw["logFiles"]
            },
            file=digest,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Finding("bad-event", digest.where, f"not a digest file: {type(error).__name__}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def _signed(digest: _Digest, keys: Mapping[str, bytes]) -> Iterator[Finding]:
    der = keys.get(digest.fingerprint)
    if der is None:
        yield _of_file("digest-key", digest, f": signed with key {digest.fingerprint}, which is not known")
        return
    content = hashlib.sha256(digest.file.content).hexdigest()
    signed = "\n".join([digest.end_text, digest.path, content, digest.previous_signature or "null"])
    try:
        key = serialization.load_der_public_key(der)
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("not RSA")
        key.verify(bytes.fromhex(digest.file.signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        yield _of_file("digest-signature", digest, ": the signature does not verify")


def _linked(earlier: _Digest, later: _Digest) -> Iterator[Finding]:
    content = hashlib.sha256(earlier.file.content).hexdigest()
    if later.start != earlier.end:
        yield _gap(earlier.end, later.start, later)
    elif (later.previous_signature, later.previous_hash) != (earlier.file.signature, content):
        yield _of_file("digest-chain", later, f" does not follow {earlier.file.where}")


def _held(path: str, logs: Mapping[str, str]) -> str | None:
    """The SHA-256 of the log at a path; a folder may have any end of the path as its name for it."""
    while path not in logs:
        _, slash, path = path.partition("/")
        if not slash:
            return None
    return logs[path]


def _listed(digest: _Digest, logs: Mapping[str, str]) -> Iterator[Finding]:
    for path, expected in digest.logs.items():
        found = _held(path, logs)
        if found is None:
            yield Finding("log-missing", path, f"{path} is listed, but not here")
        elif found != expected:
            yield Finding("log-changed", path, f"{path} is not what was delivered", expected, found)
