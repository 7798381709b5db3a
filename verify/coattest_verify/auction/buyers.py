"""A buyer's auction key, its record for the service, and the manifest the service makes of the records.

The auction key (EC P-384) signs seals. The member's quorum key certifies it together with the KMS key's
ARN, so that whoever knows the quorum knows whose seals they are: a manifest with a look-alike buyer does not
get sealed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from coattest.errors import UsageError
from coattest.jsontext import unique_names
from coattest_enclave.protocol import canonical, messages
from coattest_enclave.protocol.canonical import MessageError
from coattest_verify.signatures.keys import (
    SCHEMES,
    PublicKey,
    generate_key,
    load_public,
    passphrase_from_environment,
)

RECORD_FORMAT = "coattest-buyer/v1"
RECORD_MAX = 64 * 1024
"""Bytes of a buyer's record: a certificate of at most 16 KiB in base64, and names."""

PEM_MAX = 16 * 1024
"""Bytes of a key file; a P-384 key in PKCS#8 is about 300."""


MAKE_ONE = "make one with 'auction keygen'"


class BadKey(UsageError):
    """A file that does not hold the key it should."""

    default_code = "bad-key"


class BadRecord(UsageError):
    """A buyer's record that does not parse."""

    default_code = "bad-buyer-record"


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
            value = json.loads(content, object_pairs_hook=unique_names)
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
            lots=messages.Lots.of(lots),
            buyers=tuple(sorted((record.buyer for record in buyers), key=lambda buyer: buyer.name)),
            closes=closes,
            publish_by=publish_by,
        )
    except MessageError as error:
        raise UsageError(f"not a manifest: {error}", code="bad-manifest") from None


def load_manifest(path: Path) -> messages.Manifest:
    """The manifest in a file; raises UsageError."""
    with path.open("rb") as file:
        return parse_manifest(file.read(canonical.SIZE_MAX + 1), str(path))


def parse_manifest(content: bytes, where: str) -> messages.Manifest:
    """The manifest in a file's bytes; raises UsageError."""
    try:
        return messages.Manifest.decode(content)
    except MessageError as error:
        raise UsageError(f"not a manifest: {error}", where=where, code="bad-manifest") from None


def generate_auction_key(path: Path, passphrase: bytes | None = None) -> PublicKey:
    """Make an auction key: PKCS#8 PEM at ``path`` (mode 0600), public half at ``path``.pub; never
    overwrites.
    """
    return generate_key(path, "p384", passphrase)


def load_auction_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-384 private key in a PKCS#8 PEM file; raises BadKey.

    An encrypted one is opened with the passphrase in the file that COATTEST_PASSPHRASE_FILE names.
    """
    content = _read(path)
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:
            # cryptography's word for "encrypted, and no password was given".
            key = load_pem_private_key(content, passphrase_from_environment())
    except (ValueError, UnsupportedAlgorithm):
        # The library's own words can quote the file; a key file's words stay out of messages.
        raise BadKey("not a PEM key, or the passphrase is wrong", where=str(path), hint=MAKE_ONE) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadKey("not an EC P-384 key", where=str(path), hint=MAKE_ONE)
    return key


def load_auction_public_key(path: Path) -> bytes:
    """The P-384 public key in an SPKI PEM file, as SPKI DER; raises BadKey."""
    public = load_public(path)
    if public.scheme != SCHEMES["p384"]:
        raise BadKey("not an EC P-384 key", where=str(path), hint=MAKE_ONE)
    return public.spki


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as SPKI DER, which is how manifests carry it."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(PEM_MAX + 1)
    if len(content) > PEM_MAX:
        raise BadKey(f"larger than {PEM_MAX} bytes", where=str(path))
    return content
