"""Small auctions for tests: real keys, real manifests."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_verify.auction import messages
from coattest_verify.auction.certify import Certified, Life, Own
from coattest_verify.auction.checks import Opening
from coattest_verify.quorum.decision import Decision

ARN = "arn:aws:kms:eu-central-1:{account}:key/00000000-0000-4000-8000-{account}"
ACCOUNTS = {"buyer-1": "222233334444", "buyer-2": "333344445555", "buyer-3": "444455556666"}
KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in ACCOUNTS}
IMAGE = hashlib.sha384(b"test image 0").digest()
"""PCR0 of ``support.local.local_enclave``'s image."""
_NOW = datetime.now(timezone.utc).replace(microsecond=0)
LIFE = Life(_NOW - timedelta(days=1), _NOW + timedelta(days=90))
"""A certificate's, for auctions of today."""
LOTS = (messages.Lot("lot-1", 0), messages.Lot("lot-2", 1000), messages.Lot("lot-3", 0))


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as SPKI DER, as in manifests."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def manifest(
    auction: str = "spring",
    *,
    buyers: Sequence[str] = ("buyer-1", "buyer-2"),
    lots: Sequence[messages.Lot] = LOTS,
    rule: str = "first-price",
    closes: int = 1_800_000_000,
    publish_by: int = 1_800_003_600,
    keys: Mapping[str, ec.EllipticCurvePrivateKey] = KEYS,
) -> messages.Manifest:
    """A manifest whose buyers have the keys of this module unless told otherwise."""
    return messages.Manifest(
        auction=auction,
        currency="EUR",
        rule=rule,
        lots=messages.make_lots(lots),
        buyers=tuple(
            messages.Buyer(
                name,
                spki(keys[name].public_key()),
                b'{"certificate":"of ' + name.encode() + b'"}',
                ARN.format(account=ACCOUNTS[name]),
                f"s3://bids-{name}/",
            )
            for name in buyers
        ),
        closes=closes,
        publish_by=publish_by,
    )


def certified(buyer: messages.Buyer, _: messages.Manifest) -> Certified:
    """A quorum that has certified everybody."""
    return Certified(buyer.name, ("00" * 32,), LIFE, "00" * 32)


def own(auction: messages.Manifest, name: str) -> Own:
    """A buyer's own files, which say what the manifest says."""
    buyer = messages.named_buyer(auction, name)
    return Own(name, buyer.key, buyer.kms, buyer.bids)


def opening(decision: Decision) -> Opening:
    """The release and image of a decision."""
    return Opening(decision.release_digest, bytes.fromhex(decision.pcrs[0]))


def outcomes(
    buyers: Sequence[str], lots: Iterable[tuple[str, messages.Outcome]], *, priced: bool = False
) -> messages.Outcomes:
    """The columns of these pairs of lot id and outcome."""
    pairs = list(lots)
    masks, prices = [], []
    for _, outcome in pairs:
        match outcome:
            case messages.Won(buyer, price):
                masks.append(1 << buyers.index(buyer))
                prices.append(price or 0)
            case messages.Tie(tied):
                masks.append(sum(1 << buyers.index(buyer) for buyer in tied))
                prices.append(0)
            case messages.Unsold():
                masks.append(0)
                prices.append(0)
    ids = "\n".join(identifier for identifier, _ in pairs)
    return messages.Outcomes(ids, tuple(buyers), array("Q", masks), array("Q", prices if priced else []))
