"""A buyer's auction key, its record for the service, and the manifest the service makes of the records.

The auction key (EC P-384) signs seals. The member's quorum key certifies it together with the KMS key's ARN
and the place of the bid files, so that everybody who knows the quorum can tell whose seals they are, and
nobody seals a manifest in which somebody else poses as a buyer.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest.errors import Rejected, UsageError
from coattest.files import read_bounded
from coattest.strictjson import Fields, parse
from coattest_enclave.protocol import canonical
from coattest_enclave.protocol.errors import MessageError
from coattest_verify.auction import messages
from coattest_verify.signatures.keys import (
    SCHEMES,
    load_public,
    open_private_key,
)

RECORD_FORMAT = "coattest-buyer/v1"
RECORD_MAX = 64 * 1024
"""Bytes of a buyer's record: a certificate of at most 16 KiB in base64, and names."""

PEM_MAX = 16 * 1024
"""Bytes of a key file; a P-384 key in PKCS#8 is about 300."""


def buyer_json(buyer: messages.Buyer) -> dict[str, str]:
    """A buyer's record: what it gives the service for a manifest, all public; binary fields in base64."""
    return {
        "format": RECORD_FORMAT,
        "name": buyer.name,
        "key": base64.b64encode(buyer.key).decode("ascii"),
        "certificate": base64.b64encode(buyer.certificate).decode("ascii"),
        "kms": buyer.kms,
        "bids": buyer.bids,
    }


def parse_buyer(content: bytes, where: str) -> messages.Buyer:
    """The buyer in a record's bytes, unverified; raises UsageError."""
    try:
        fields = Fields(parse(content, max_size=RECORD_MAX), "")
        fields.exactly("format", RECORD_FORMAT)
        name, kms, bids = (fields.text(each) for each in ("name", "kms", "bids"))
        key, certificate = (
            base64.b64decode(fields.text(each, limit=RECORD_MAX), validate=True)
            for each in ("key", "certificate")
        )
        fields.done()
        return messages.Buyer(name, key, certificate, kms, bids)
    except (Rejected, ValueError, MessageError) as error:
        raise UsageError(str(error), where=where, code="bad-buyer-record") from None


def load_buyer(path: Path) -> messages.Buyer:
    """The buyer in a record's file, unverified; raises UsageError."""
    return parse_buyer(read_bounded(path, RECORD_MAX), str(path))


def make_manifest(
    *,
    auction: str,
    rule: str,
    currency: str,
    lots: Sequence[messages.Lot],
    buyers: Sequence[messages.Buyer],
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
            buyers=tuple(sorted(buyers, key=lambda buyer: buyer.name)),
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
