"""A buyer's auction key, its record for the service, and the manifest the service makes of the records.

The auction key (EC P-384) signs seals. The operator's quorum key certifies it together with the KMS key's
ARN, so that whoever knows the quorum knows whose seals they are: a manifest with a look-alike buyer does not
get sealed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from coattest_enclave import messages
from coattest_enclave.canonical import MessageError
from coattest_verify.shell import UsageError, write_atomic

RECORD_FORMAT = "coattest-buyer/v1"
RECORD_MAX = 64 * 1024
"""Bytes of a buyer's record: a certificate of at most 16 KiB in base64, and names."""

PEM_MAX = 16 * 1024
"""Bytes of a key file; a P-384 key in PKCS#8 is about 300."""


class BadKey(UsageError):
    """A file that does not hold the key it should."""

    default_reason = "bad-key"


class BadRecord(UsageError):
    """A buyer's record that does not parse."""

    default_reason = "bad-buyer-record"


@dataclass(frozen=True, slots=True)
class BuyerRecord:
    """What a buyer gives the service for a manifest; all of it public."""

    buyer: messages.Buyer

    def to_json(self) -> dict[str, str]:
        """The record as JSON; binary fields in base64."""
        return {
            "format": RECORD_FORMAT,
            "name": self.buyer.name,
            "key": base64.b64encode(self.buyer.key).decode("ascii"),
            "certificate": base64.b64encode(self.buyer.certificate).decode("ascii"),
            "kms": self.buyer.kms,
            "bids": self.buyer.bids,
        }

    @classmethod
    def parse(cls, content: bytes, where: str) -> BuyerRecord:
        """The record in a file's bytes; raises BadRecord. Nothing in it is verified here."""
        if len(content) > RECORD_MAX:
            raise BadRecord(f"larger than {RECORD_MAX} bytes", where=where)
        try:
            value = json.loads(content, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"not JSON: {error}", where=where) from None
        fields = {"format", "name", "key", "certificate", "kms", "bids"}
        if (
            not isinstance(value, dict)
            or set(value) != fields
            or not all(isinstance(item, str) for item in value.values())
        ):
            raise BadRecord(f"not a map of {', '.join(sorted(fields))}", where=where)
        if value["format"] != RECORD_FORMAT:
            raise BadRecord(f"format is not {RECORD_FORMAT}", where=where)
        try:
            key, certificate = (
                base64.b64decode(value[name], validate=True) for name in ("key", "certificate")
            )
            return cls(messages.Buyer(value["name"], key, certificate, value["kms"], value["bids"]))
        except (binascii.Error, ValueError, MessageError) as error:
            raise BadRecord(str(error), where=where) from None


def make_manifest(
    *,
    auction: str,
    rule: str,
    currency: str,
    lots: Sequence[messages.Lot],
    buyers: Sequence[BuyerRecord],
    closes: int,
    publish_by: int,
) -> messages.Manifest:
    """The manifest; times are Unix seconds, reserves minor units. Raises UsageError naming the broken
    rule.
    """
    try:
        return messages.Manifest(
            auction=auction,
            currency=currency,
            rule=rule,
            lots=tuple(lots),
            buyers=tuple(sorted((record.buyer for record in buyers), key=lambda buyer: buyer.name)),
            closes=closes,
            publish_by=publish_by,
        )
    except MessageError as error:
        raise UsageError(f"not a manifest: {error}", reason="bad-manifest") from None


def load_manifest(path: Path) -> messages.Manifest:
    """The manifest in a file; raises UsageError."""
    try:
        return messages.Manifest.decode(path.read_bytes())
    except MessageError as error:
        raise UsageError(f"not a manifest: {error}", where=str(path), reason="bad-manifest") from None


def generate_auction_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Make an auction key: PKCS#8 PEM at ``path`` (mode 0600), SPKI PEM at ``path``.pub; nothing is
    overwritten.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError("a key is there already", where=str(path), reason="key-exists") from None
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    public = key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_atomic(path.with_name(f"{path.name}.pub"), pem)
    return public


def load_auction_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-384 private key in a PKCS#8 PEM file; raises BadKey."""
    return _p384(_load(path, lambda data: load_pem_private_key(data, None)), ec.EllipticCurvePrivateKey, path)


def load_auction_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The P-384 public key in an SPKI PEM file; raises BadKey."""
    return _p384(_load(path, load_pem_public_key), ec.EllipticCurvePublicKey, path)


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as SPKI DER, which is how manifests carry it."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load(path: Path, loader: Any) -> Any:
    with path.open("rb") as file:
        content = file.read(PEM_MAX + 1)
    if len(content) > PEM_MAX:
        raise BadKey(f"larger than {PEM_MAX} bytes", where=str(path))
    try:
        return loader(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own words can quote the file; a key file's words stay out of messages.
        raise BadKey(
            "not an unencrypted PEM key", where=str(path), hint="make one with 'auction keygen'"
        ) from None


def _p384(key: Any, kind: Any, path: Path) -> Any:
    if not isinstance(key, kind) or not isinstance(key.curve, ec.SECP384R1):
        raise BadKey("not an EC P-384 key", where=str(path), hint="make one with 'auction keygen'")
    return key


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name appears twice")
    return value
