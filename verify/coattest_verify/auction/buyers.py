"""A buyer's auction key, its record for the service, and the manifest the service makes of the records.

The auction key (EC P-384) signs seals. The member's quorum key certifies it together with the KMS key's ARN
and the place of the bid files, so that everybody who knows the quorum can tell whose seals they are, and
nobody seals a manifest in which somebody else poses as a buyer.
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
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest.errors import UsageError
from coattest.files import read_bounded
from coattest.jsontext import unique_names
from coattest_enclave.protocol import canonical
from coattest_enclave.protocol.errors import MessageError
from coattest_verify.auction import messages
from coattest_verify.signatures.keys import (
    SCHEMES,
    PublicKey,
    generate_key,
    load_public,
    open_private_key,
)

RECORD_FORMAT = "coattest-buyer/v1"
RECORD_MAX = 64 * 1024
"""Bytes of a buyer's record: a certificate of at most 16 KiB in base64, and names."""

PEM_MAX = 16 * 1024
"""Bytes of a key file; a P-384 key in PKCS#8 is about 300."""


@dataclass(frozen=True, slots=True)
class BuyerRecord:
    """What a buyer gives the service for a manifest. All of it is public."""

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
        """The record in a file's bytes, unverified; raises UsageError."""
        if len(content) > RECORD_MAX:
            raise UsageError(f"larger than {RECORD_MAX} bytes", where=where, code="bad-buyer-record")
        try:
            value = json.loads(content, object_pairs_hook=unique_names)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not JSON: {error}", where=where, code="bad-buyer-record") from None
        fields = {"format", "name", "key", "certificate", "kms", "bids"}
        if (
            not isinstance(value, dict)
            or set(value) != fields
            or not all(isinstance(item, str) for item in value.values())
        ):
            raise UsageError(
                f"not a map of {', '.join(sorted(fields))}", where=where, code="bad-buyer-record"
            )
        if value["format"] != RECORD_FORMAT:
            raise UsageError(f"format is not {RECORD_FORMAT}", where=where, code="bad-buyer-record")
        try:
            key, certificate = (
                base64.b64decode(value[name], validate=True) for name in ("key", "certificate")
            )
            return cls(messages.Buyer(value["name"], key, certificate, value["kms"], value["bids"]))
        except (binascii.Error, ValueError, MessageError) as error:
            raise UsageError(str(error), where=where, code="bad-buyer-record") from None


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
    """The manifest; times are Unix seconds, reserves minor units. Raises UsageError for a broken rule."""
    try:
        return messages.Manifest(
            auction=auction,
            currency=currency,
            rule=rule,
            lots=messages.make_lots(lots),
            buyers=tuple(sorted((record.buyer for record in buyers), key=lambda buyer: buyer.name)),
            closes=closes,
            publish_by=publish_by,
        )
    except MessageError as error:
        raise UsageError(f"not a manifest: {error}", code="bad-manifest") from None


def load_manifest(path: Path) -> messages.Manifest:
    """The manifest in a file; raises UsageError."""
    return parse_manifest(read_bounded(path, canonical.SIZE_MAX), str(path))


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
    """The P-384 private key in a PKCS#8 PEM file; raises UsageError.

    The passphrase of an encrypted key is in the file that COATTEST_PASSPHRASE_FILE names.
    """
    content = _read(path)
    try:
        key = open_private_key(content, path, code="bad-key")
    except (ValueError, UnsupportedAlgorithm):
        # The library's message can quote the file, and no message may quote a key file.
        raise _bad_key("not a private key in PEM", path) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _bad_key("not an EC P-384 key", path)
    return key


def spki_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as SPKI DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load_own_key(path: Path) -> bytes:
    """The public half (SPKI DER) of the auction key in a file of either half; raises UsageError."""
    if b"PUBLIC KEY" in _read(path):
        return load_auction_public_key(path)
    return spki_der(load_auction_key(path).public_key())


def load_auction_public_key(path: Path) -> bytes:
    """The P-384 public key in an SPKI PEM file, as SPKI DER; raises UsageError."""
    public = load_public(path)
    if public.scheme != SCHEMES["p384"]:
        raise _bad_key("not an EC P-384 key", path)
    return public.spki


def _read(path: Path) -> bytes:
    content = read_bounded(path, PEM_MAX)
    if len(content) > PEM_MAX:
        raise _bad_key(f"larger than {PEM_MAX} bytes", path)
    return content


def _bad_key(what: str, path: Path) -> UsageError:
    return UsageError(what, where=str(path), hint="make one with 'auction keygen'", code="bad-key")
