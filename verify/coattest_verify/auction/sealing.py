"""What a buyer checks before it seals an auction, and the seal itself.

The seal binds a buyer to one manifest, one decision (which code may open) and one bid set. All checks run and
all their failures are reported at once; nothing is recorded or signed while one is left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest.errors import CoattestError, FoundFalse
from coattest_enclave.protocol import cose, messages
from coattest_verify.auction.journal import Overlap, SealJournal

CertificateCheck = Callable[[messages.Buyer], None]
"""Checks that a buyer's key and KMS ARN are certified by that name's quorum key; raises a
CoattestError.
"""


class SealRefused(FoundFalse):
    """The auction is not one that this buyer may seal; ``problems`` are all the reasons, (code, text)."""

    default_code = "seal-refused"

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(text for _, text in problems), code=problems[0][0])
        self.problems = problems


@dataclass(frozen=True, slots=True)
class SealPlan:
    """A seal that passed every check and is not signed yet."""

    manifest: messages.Manifest
    buyer: str
    payload: bytes
    overlaps: tuple[Overlap, ...]

    @property
    def digest(self) -> bytes:
        """SHA-384 of the payload: the nonce of the receipt."""
        return hashlib.sha384(self.payload).digest()

    @property
    def disclosure(self) -> str:
        """What the manifest's rule will reveal."""
        return messages.DISCLOSURE[self.manifest.rule]

    @property
    def reveals_a_losing_amount(self) -> bool:
        """Whether somebody who does not win may see its amount published, as the price of who does."""
        return self.manifest.rule == messages.SECOND_PRICE


def plan_seal(
    manifest: messages.Manifest,
    *,
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    decision: bytes,
    bids: Mapping[str, bytes],
    own_bid: bytes,
    check_certificate: CertificateCheck,
    journal: SealJournal,
    now: int,
) -> SealPlan:
    """The seal of ``manifest`` over ``bids`` (buyer to SHA-384 of its bid file); raises SealRefused.

    ``decision`` is the 32-byte digest of the decision that this buyer recomputed; ``own_bid`` the bytes of
    the bid file it made; ``now`` Unix seconds.
    """
    problems: list[tuple[str, str]] = []
    names = [buyer.name for buyer in manifest.buyers]
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = next((buyer for buyer in manifest.buyers if buyer.name == name), None)
    if own is None:
        problems.append(("not-a-buyer", f"{name!r} is not a buyer of this manifest"))
    elif own.key != spki:
        problems.append(("other-key", f"the manifest names another auction key for {name!r}"))
    for buyer in manifest.buyers:
        try:
            check_certificate(buyer)
        except CoattestError as error:
            problems.append(("bad-certificate", f"buyer {buyer.name!r}: {error.what}"))
    problems += [("missing-bid", f"no bid file of {name!r}") for name in names if name not in bids]
    problems += [("stranger", f"{name!r} is not a buyer") for name in sorted(bids) if name not in names]
    if name in bids and bids[name] != messages.bid_digest(own_bid):
        problems.append(("own-bid-missing", "the bid set does not hold your own bid file, but another one"))
    if now > manifest.publish_by:
        problems.append(("too-late", "the publication deadline has passed: no result can come of it"))
    if problems:
        raise SealRefused(tuple(problems))
    payload = messages.Seal(
        manifest=manifest.digest, decision=decision, bids=tuple((name, bids[name]) for name in names)
    ).encode()
    return SealPlan(manifest, name, payload, journal.overlaps(manifest))


def sign_seal(plan: SealPlan, key: ec.EllipticCurvePrivateKey, journal: SealJournal) -> bytes:
    """The COSE_Sign1 of a plan; the journal has it durably before the signature is made.

    Raises AlreadySealed when this manifest was sealed otherwise before, whatever the key.
    """
    journal.record(plan.manifest.encode(), plan.payload)
    return cose.sign1(plan.payload, key, plan.buyer.encode("utf-8"))
