"""Whole auctions as vectors: every kind of outcome, and every attack on the messages, with how each ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coattest_enclave.decision import auction
from coattest_enclave.protocol import canonical, cose
from coattest_verify.auction import messages
from support.auction.vector_keys import IMAGE, RELEASE, sign1, spki

Amounts = dict[str, list[int]]
WHO = ("ada", "bob", "cy")
Change = Callable[["Case"], object]
LOTS = [("a/1", 0), ("a/2", 10), ("a/3", 0), ("a/4", 0), ("a/5", 7)]
BIDS: Amounts = {"ada": [5, 9, 0, 4, 8], "bob": [3, 10, 0, 4, 8], "cy": [4, 2, 0, 1, 7]}


@dataclass
class Case:
    """An auction whose messages can be made wrong one by one: three buyers, every kind of outcome."""

    rule: str = messages.FIRST_PRICE
    auction: str = "vectors"
    amounts: Amounts = field(default_factory=lambda: dict(BIDS))
    image: bytes = IMAGE
    """PCR0 of the enclave that is asked to open."""
    bid_image: bytes = IMAGE
    """PCR0 of the image that the bids are made for."""
    own_keys: dict[str, bytes] = field(default_factory=dict)
    """Seal keys (SPKI DER) that buyers have, where the manifest gives others."""

    def __post_init__(self) -> None:
        buyers = tuple(
            messages.Buyer(
                name,
                spki(i),
                b'{"payload":""}',
                f"arn:aws:kms:eu-central-1:11112222333{i}:key/1234abcd-12ab-34cd-56ef-12345678900{i}",
                f"s3://bids-of-{name}/",
            )
            for i, name in enumerate(WHO, 1)
        )
        self.book = messages.Manifest(
            self.auction, "EUR", self.rule, messages.make_lots(LOTS), buyers, 1_783_000_000, 1_783_086_400
        )
        self.encoded = self.book.encode()
        self.plaintexts = {name: messages.pack_bids(self.amounts[name]) for name in WHO}
        self.make_files()

    def make_files(self) -> None:
        """Encrypt the plaintexts and sign the seal over them."""
        self.files, self.kms = {}, []
        for i, buyer in enumerate(self.book.buyers, 1):
            data_key, wrapped = bytes([i]) * 32, f"wrapped for {buyer.name} in {self.auction}".encode()
            bound = messages.Binding.of(self.book, buyer, self.bid_image)
            bound = replace(bound, seal_key=self.own_keys.get(buyer.name, buyer.key))
            iv = bytes([i]) * 12
            self.files[buyer.name] = messages.encrypt0(
                self.plaintexts[buyer.name], data_key, wrapped_key=wrapped, external_aad=bound.aad, iv=iv
            )
            answer = {"key": buyer.kms, "wrapped_key": wrapped.hex(), "context": bound.context}
            self.kms.append({**answer, "data_key": data_key.hex()})
        self.make_seals()

    def make_seals(self) -> None:
        """Every buyer signs what is there now."""
        digests = tuple((name, messages.bid_digest(self.files[name])) for name in WHO)
        self.payload = messages.Seal(self.book.digest, RELEASE, IMAGE, digests).encode()
        self.seals = [self.sign(i) for i in (1, 2, 3)]

    def sign(self, key: int, *, name: str = "", payload: bytes = b"") -> bytes:
        """The seal of the buyer with that key, or under another name or over something else."""
        return sign1(payload or self.payload, key, (name or WHO[key - 1]).encode())

    def said(self, what: str, **expected: Any) -> dict[str, Any]:
        """The case as a vector."""
        return {
            "what": what,
            "image": self.image.hex(),
            "manifest": self.encoded.hex(),
            "seals": [seal.hex() for seal in self.seals],
            "bids": [[name, file.hex()] for name, file in self.files.items()],
            "kms": self.kms,
            **expected,
        }


def opened(case: Case) -> bytes:
    """The result's bytes."""
    return auction.result(case.book, messages.Seal.decode(case.payload).digest, case.plaintexts)


def cases() -> list[dict[str, Any]]:
    """Whole auctions: what is announced, KMS's answers, and the result's bytes or the error's code."""
    found = []
    for rule in messages.DISCLOSURE:
        case = Case(rule)
        found.append(case.said(f"{rule}: won, reserves, unsold, ties", result=opened(case).hex()))
        case.seals.reverse()
        found.append(case.said(f"{rule}: seals in another order", result=opened(case).hex()))
    for what, content in {
        "one amount too few": bytes(32),
        "one byte too many": bytes(41),
        "an amount of 2^53": bytes(32) + (2**53).to_bytes(8, "big"),
        "nothing": b"",
    }.items():
        case = Case(messages.SECOND_PRICE)
        case.plaintexts["bob"] = content
        case.make_files()
        found.append(case.said(f"bob's content is no bid: {what}", result=opened(case).hex()))
    return found + refusals()


def refusals() -> list[dict[str, Any]]:
    """Auctions that are not opened: one attack each, with the code that it ends with."""
    found = []
    for code, attacks in REFUSED.items():
        for what, change in attacks.items():
            case = Case()
            change(case)
            found.append(case.said(what, error=code))
    return found


def manifest(**changes: Any) -> Change:
    """The manifest with other fields."""

    def change(case: Case) -> None:
        case.encoded = canonical.dumps({**canonical.loads(case.encoded), **changes})

    return change


def bob(**changes: Any) -> Change:
    """The manifest with other fields of bob's."""

    def change(case: Case) -> None:
        buyers = canonical.loads(case.encoded)["buyers"]
        manifest(buyers=[buyers[0], {**buyers[1], **changes}, buyers[2]])(case)

    return change


def buyers(order: Sequence[int]) -> Change:
    """The manifest with its buyers in this order."""

    def change(case: Case) -> None:
        given = canonical.loads(case.encoded)["buyers"]
        manifest(buyers=[given[i] for i in order])(case)

    return change


def replaced(old: bytes, new: bytes) -> Change:
    """The manifest with some of its bytes replaced."""

    def change(case: Case) -> None:
        assert old in case.encoded
        case.encoded = case.encoded.replace(old, new)

    return change


def seals(make: Callable[[Case], list[bytes]]) -> Change:
    """Other seals."""

    def change(case: Case) -> None:
        case.seals = make(case)

    return change


def payload(make: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Every buyer's seal over other fields."""

    def change(case: Case) -> None:
        fields = canonical.loads(case.payload)
        other = canonical.dumps({**fields, **make(fields)})
        case.seals = [case.sign(i, payload=other) for i in (1, 2, 3)]

    return change


def bob_file(make: Callable[[Case], bytes], *, sealed: bool = True) -> Change:
    """Another bid file of bob's, which the buyers sealed or not."""

    def change(case: Case) -> None:
        case.files["bob"] = make(case)
        if sealed:
            case.make_seals()

    return change


def flipped(case: Case) -> bytes:
    """Bob's bid file with its last bit changed."""
    return case.files["bob"][:-1] + bytes([case.files["bob"][-1] ^ 1])


def recommitted(case: Case) -> bytes:
    """Bob's bid file, right but for the commitment, which is to ada's data key."""
    mine, adas = (cose.commitment_of(bytes.fromhex(answer["data_key"])) for answer in case.kms[1::-1])
    assert mine in case.files["bob"]
    return case.files["bob"].replace(mine, adas)


def rewrapped(case: Case) -> None:
    """A KMS that gives the data key of another auction's bid for this auction's context."""
    bob_file(lambda _: other().files["bob"])(case)
    case.kms[1] = {**case.kms[1], "wrapped_key": other().kms[1]["wrapped_key"]}


def other() -> Case:
    """Another auction of the same buyers."""
    return Case(auction="another")


def another_image(case: Case) -> None:
    """The bids are made for another image than the seal's, and the seal's opens."""
    case.bid_image = bytes(range(1, 49))
    case.make_files()


def substituted_key(case: Case) -> None:
    """Bob bids under its own seal key; the manifest has a key of the service's under bob's name."""
    case.own_keys["bob"] = spki(4)
    case.make_files()


def twos_release(case: Case) -> list[bytes]:
    """Bob seals another release than the others."""
    theirs = canonical.dumps({**canonical.loads(case.payload), "release": bytes(32)})
    return [case.seals[0], case.sign(2, payload=theirs), case.seals[2]]


REFUSED: dict[str, dict[str, Change]] = {
    "bad-manifest": {
        "another version": manifest(purpose="coattest/manifest/v2"),
        "another kind of message": manifest(purpose="coattest/seal/v1"),
        "one field more": manifest(extra=0),
        "an unknown rule": manifest(rule="all-pay"),
        "a lot twice": manifest(lots="a/1\na/2\na/3\na/4\na/1"),
        "a line feed at the end of the lots": manifest(lots="a/1\na/2\na/3\na/4\n"),
        "one reserve too few": manifest(reserves=bytes(32)),
        "a reserve of 2^53": manifest(reserves=bytes(32) + (2**53).to_bytes(8, "big")),
        "a byte after the end": lambda case: setattr(case, "encoded", case.encoded + b"\0"),
        "an integer longer than needed": replaced(b"fcloses\x1a", b"fcloses\x1b\0\0\0\0"),
        "a field of another name": replaced(b"fcloses", b"fclosez"),
        "a buyer twice": buyers([0, 1, 2, 2]),
        "buyers in another order": buyers([2, 1, 0]),
        "a look-alike: a Cyrillic letter in bob": bob(name="b\u043eb"),
        "ada's key for bob too": bob(key=spki(1)),
        "a key cut short": bob(key=spki(2)[:-1]),
        "an object in place of a prefix": bob(bids="s3://bids-of-bob/bid.cose"),
        "ada's KMS key for bob too": bob(kms=Case().book.buyers[0].kms),
        "an alias for a KMS key": bob(kms="arn:aws:kms:eu-central-1:111122223332:alias/bids"),
        "a KMS key in another partition": bob(kms=Case().book.buyers[1].kms.replace("aws", "aws-cn", 1)),
    },
    "bad-seal": {
        "changed reserves": manifest(reserves=bytes(40)),
        "a look-alike: b0b in bob's place": bob(name="b0b"),
        "the service's key in bob's place": bob(key=spki(4)),
        "a buyer left out of the manifest": buyers([0, 2]),
        "another auction's seals": seals(lambda _: other().seals),
        "nobody sealed": seals(lambda _: []),
        "all but one sealed": seals(lambda case: case.seals[:2]),
        "one seal twice": seals(lambda case: [*case.seals[:2], case.seals[1]]),
        "one seal too many": seals(lambda case: [*case.seals, case.seals[0]]),
        "bob's name under ada's key": seals(lambda c: [c.seals[0], c.sign(1, name="bob"), c.seals[2]]),
        "a stranger's key under cy's name": seals(lambda c: [*c.seals[:2], c.sign(4, name="cy")]),
        "two releases": seals(twos_release),
        "a bid left out": payload(lambda fields: {"bids": fields["bids"][:2]}),
        "bids in another order": payload(lambda fields: {"bids": fields["bids"][::-1]}),
        "a bid twice": payload(lambda fields: {"bids": [*fields["bids"], fields["bids"][2]]}),
        "a seal of another version": payload(lambda _: {"purpose": "coattest/seal/v2"}),
        "an image of zeros": payload(lambda _: {"image": bytes(48)}),
        "a manifest signed as a seal": seals(lambda c: [c.sign(i, payload=c.encoded) for i in (1, 2, 3)]),
    },
    "wrong-image": {
        "an earlier release opens": lambda case: setattr(case, "image", bytes(range(1, 49))),
        "a debug enclave opens": lambda case: setattr(case, "image", bytes(48)),
    },
    "bad-bid-digest": {
        "a bid changed after sealing": bob_file(flipped, sealed=False),
        "another auction's bid": bob_file(lambda _: other().files["bob"], sealed=False),
        "bids swapped": lambda case: case.files.update(ada=case.files["bob"], bob=case.files["ada"]),
        "a bid left out": lambda case: case.files.pop("cy"),
    },
    "bad-bid": {
        "a sealed file that does not authenticate": bob_file(flipped),
        "a sealed file of another algorithm": bob_file(
            lambda case: case.files["bob"].replace(b"\xa1\x01\x03", b"\xa1\x01\x01", 1)
        ),
        "a commitment to another data key": bob_file(recommitted),
        "a sealed file that is none": bob_file(lambda _: b"\xd0"),
        "another auction's bid, its data key given for this one": rewrapped,
    },
    "kms-denied": {
        "another auction's bid, sealed in this one": bob_file(lambda _: other().files["bob"]),
        "another buyer's bid, sealed as bob's": bob_file(lambda case: case.files["ada"]),
        "a bid for another image, sealed for this one": another_image,
        "the service's seal key in bob's place, and its seal": substituted_key,
    },
}
