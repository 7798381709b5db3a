"""A buyer's part in auctions, certified with its member's quorum key: its keys, its place, from when to when.

The manifest of an auction names each buyer's seal key, KMS key and place of bid files. Without this
certificate the manifest's writer could put in its own (docs/protocol.md, "Certificate").
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from coattest.errors import Rejected, UsageError
from coattest.strictjson import Fields, canonical, parse, shown
from coattest_verify.auction import messages
from coattest_verify.quorum.authority import Authority
from coattest_verify.quorum.members.file import MembersFile, parse_utc, utc
from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from coattest_verify.signatures.keys import Signer

CERTIFICATE_TYPE = "application/vnd.coattest.buyer-key+json"
"""DSSE payload type."""

PURPOSE = "coattest/buyer-key/v1"

MAX_CERTIFICATE = 8 * 1024
"""Bytes of a certificate; keys, a place and a signature have about 1,000."""

MAX_LIFE = timedelta(days=366)
"""The longest time from a certificate's beginning to its end."""

CODE = "bad-certificate"


@dataclass(frozen=True, slots=True)
class Own:
    """A buyer as its own files have it: name, seal key (SPKI DER), KMS key's ARN, and the place of its bid
    files, ``s3://bucket/prefix/``.
    """

    name: str
    seal_key: bytes
    kms: str
    bids: str


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid, both included; aware times."""

    begins: datetime
    ends: datetime

    def check(self) -> None:
        """Raise UsageError unless it ends after it begins, and not too late."""
        if not timedelta(0) < self.ends - self.begins <= MAX_LIFE:
            raise UsageError(
                f"a certificate ends after it begins, by at most {MAX_LIFE.days} days", code="bad-certificate"
            )


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate that was verified: its member, the fingerprints of the quorum keys that signed it, its
    life, and the SHA-256 (hex) of what was signed, by which it can be withdrawn.
    """

    member: str
    signers: tuple[str, ...]
    life: Life
    sha256: str


CertificateCheck = Callable[[messages.Buyer, messages.Manifest], Certified]
"""Checks a buyer of a manifest against the quorum; raises CoattestError."""


def certify_buyer_key(signer: Signer, own: Own, life: Life) -> bytes:
    """DSSE JSON in which a member's quorum key certifies a buyer's seal key, KMS key and place for some time.

    Raises UsageError for a bad ``life``.
    """
    life.check()
    payload = canonical(
        {
            "purpose": PURPOSE,
            "member": own.name,
            "key": base64.b64encode(own.seal_key).decode(),
            "kms": own.kms,
            "bids": own.bids,
            "from": utc(life.begins),
            "until": utc(life.ends),
        }
    )
    return sign_envelope(signer, CERTIFICATE_TYPE, payload).encode()


def check_buyer_certificate(buyer: messages.Buyer, quorum: MembersFile) -> Certified:
    """The certificate of a manifest's buyer, when one of the member's keys in ``quorum`` certified exactly
    this key, ARN and place. When it is valid is the caller's to check.

    Raises Rejected (``bad-certificate``).
    """
    party = quorum.member(buyer.name)
    if party is None:
        raise Rejected(f"{shown(buyer.name)} is not a member of quorum.toml", code=CODE)
    try:
        envelope = DsseEnvelope.decode(buyer.certificate, CERTIFICATE_TYPE, max_size=MAX_CERTIFICATE)
        signers = envelope.signers(party.keys)
        if not signers:
            raise Rejected(f"not signed by a key of {buyer.name}")
        fields = Fields(parse(envelope.payload, max_size=MAX_CERTIFICATE), "")
        fields.exactly("purpose", PURPOSE)
        fields.exactly("member", buyer.name)
        fields.exactly("key", base64.b64encode(buyer.key).decode())
        fields.exactly("kms", buyer.kms)
        fields.exactly("bids", buyer.bids)
        life = Life(parse_utc(fields.text("from")), parse_utc(fields.text("until")))
        fields.done()
        life.check()
    except (Rejected, UsageError) as error:
        raise Rejected(error.what, code=CODE) from None
    digest = hashlib.sha256(envelope.payload).hexdigest()
    return Certified(buyer.name, tuple(sorted(key.fingerprint for key in signers)), life, digest)


def certificate_check(
    authority: Authority, *, now: datetime | None = None, withdrawn: Collection[str] = ()
) -> CertificateCheck:
    """A check of a buyer against the members file that ``authority`` decided under.

    The certificate must be valid from the auction's closing time to its publication deadline, and with
    ``now`` (aware) it must have begun. Those in ``withdrawn`` (``Certified.sha256``) are refused: a
    withdrawal stops bids and seals, and does not touch what is sealed, so receipts are verified without it.
    The check raises Rejected (``bad-certificate``, ``certificate-ended``, ``certificate-withdrawn``).
    """

    def check(buyer: messages.Buyer, manifest: messages.Manifest) -> Certified:
        found = check_buyer_certificate(buyer, authority.members)
        closes, publish_by = _moment(manifest.closes), _moment(manifest.publish_by)
        begun = min(closes, now) if now is not None else closes
        if begun < found.life.begins or publish_by > found.life.ends:
            raise Rejected(
                f"it is valid from {utc(found.life.begins)} to {utc(found.life.ends)}, "
                f"the auction needs it until {utc(publish_by)}",
                code="certificate-ended",
            )
        if found.sha256 in withdrawn:
            raise Rejected(f"{buyer.name} has withdrawn it", code="certificate-withdrawn")
        return found

    return check


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise Rejected(
            "the auction's times are not valid dates, so no certificate covers them", code=CODE
        ) from None
