"""Small auctions for tests: real keys, real manifests."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_enclave.protocol import messages

ARN = "arn:aws:kms:eu-central-1:{account}:key/00000000-0000-4000-8000-{account}"
ACCOUNTS = {"buyer-1": "222233334444", "buyer-2": "333344445555", "buyer-3": "444455556666"}
KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in ACCOUNTS}
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
        lots=messages.Lots.of(lots),
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
