"""docs/protocol.md's vectors, by two implementations: the program, and one written from the page alone."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave import open_request
from coattest_enclave.decision import auction
from coattest_enclave.payload.sigv4 import Credentials
from coattest_enclave.protocol import canonical, wire
from coattest_enclave.protocol.errors import EnclaveError
from coattest_verify.auction import messages
from support.auction import by_the_page
from support.enclave.fake_nsm import PCR0
from support.enclave.running_enclave import arn_of, spki_of

VECTORS = Path(__file__).parent / "vectors"
AUCTIONS: list[dict[str, Any]] = json.loads((VECTORS / "auction.json").read_text())


def vector(name: str) -> list[dict[str, Any]]:
    """The cases of a vector file."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    assert cases
    return cases


class RecordedKms:
    """KMS's answers in a vector: a data key for exactly this key, ciphertext and context, else no."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        self.answers = {
            (answer["key"], answer["wrapped_key"], json.dumps(answer["context"], sort_keys=True)): answer
            for answer in case["kms"]
        }

    def ask(self, arn: str, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """The data key, or None for a refusal."""
        answer = self.answers.get((arn, wrapped.hex(), json.dumps(dict(context), sort_keys=True)))
        return bytes.fromhex(answer["data_key"]) if answer else None


def by_page(case: Mapping[str, Any]) -> dict[str, str]:
    """What the page's implementation makes of a case."""
    try:
        result = by_the_page.open_auction(
            bytes.fromhex(case["manifest"]),
            [bytes.fromhex(seal) for seal in case["seals"]],
            [(name, bytes.fromhex(file)) for name, file in case["bids"]],
            RecordedKms(case).ask,
            own_image=bytes.fromhex(case["image"]),
        )
    except by_the_page.Refused as refused:
        return {"error": str(refused)}
    return {"result": result.hex()}


def by_program(case: Mapping[str, Any]) -> dict[str, str]:
    """What the program's own steps make of a case; only sockets and the NSM are left out."""
    kms, image = RecordedKms(case), bytes.fromhex(case["image"])
    files = [(name, bytes.fromhex(file)) for name, file in case["bids"]]
    encoded, seals = bytes.fromhex(case["manifest"]), tuple(bytes.fromhex(seal) for seal in case["seals"])
    sizes = tuple((name, len(file)) for name, file in files)

    def ask(wrapped: bytes, arn: str, context: Mapping[str, str]) -> bytearray:
        key = kms.ask(arn, wrapped, context)
        if key is None:
            raise EnclaveError("AccessDeniedException", "kms-denied")
        return bytearray(key)

    try:
        announced = open_request.OpenRequest(len(encoded), sizes, seals, Credentials("", "", ""))
        manifest, seal = open_request.check_manifest(announced, encoded, "aws", image)
        for (_, file), (_, digest) in zip(files, seal.bids, strict=True):
            open_request.check_bid(file, digest)
        bound = [messages.Binding.of(manifest, buyer, image) for buyer in manifest.buyers]
        sealed = [(each, file) for each, (_, file) in zip(bound, files, strict=True)]
        keys = [open_request.data_key(ask, each, file) for each, file in sealed]
        bids = {
            each.buyer: open_request.unpack(each, file, key)
            for (each, file), key in zip(sealed, keys, strict=True)
        }
    except EnclaveError as error:
        return {"error": error.code}
    return {"result": auction.result(manifest, seal.digest, bids).hex()}


@pytest.mark.parametrize("case", AUCTIONS, ids=[case["what"] for case in AUCTIONS])
def test_an_auctions_vector_ends_as_it_says(case: dict[str, Any]) -> None:
    """Both implementations reach the very result, or refuse the attack with the very code."""
    expected = {name: case[name] for name in ("result", "error") if name in case}
    assert len(expected) == 1
    assert by_page(case) == expected
    assert by_program(case) == expected


def test_every_refusal_has_its_reason_and_every_rule_its_result() -> None:
    """The vectors have each code that an upload can end with, both rules, and every kind of outcome."""
    assert {case["error"] for case in AUCTIONS if "error" in case} == {
        "bad-manifest",
        "bad-seal",
        "bad-bid-digest",
        "bad-bid",
        "kms-denied",
        "wrong-image",
    }
    results = [messages.Result.decode(bytes.fromhex(case["result"])) for case in AUCTIONS if "result" in case]
    kinds = {(result.rule, type(outcome)) for result in results for _, outcome in result.lots}
    assert len(kinds) == 6


def test_the_second_implementation_knows_the_page_only() -> None:
    """It imports the standard library and a library of cryptography, nothing of ours."""
    source = Path(by_the_page.__file__).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not any(name.startswith(("coattest", "support")) for name in names)


def test_the_smaller_vectors_hold_by_the_page() -> None:
    """Manifest, bid, seal, result and frame vectors are what the page's rules make of them."""
    for case in vector("manifest"):
        data, fields = bytes.fromhex(case["encoded"]), case["fields"]
        read = by_the_page.read_manifest(data, "aws")
        assert by_the_page.sha384(data).hex() == case["sha384"]
        assert list(zip(read["ids"], read["limits"], strict=True)) == [tuple(lot) for lot in fields["lots"]]
        assert [buyer["name"] for buyer in read["buyers"]] == [buyer["name"] for buyer in fields["buyers"]]
    for case in vector("bid"):
        answer = {"key": case["kms"], "wrapped_key": case["wrapped_key"], "data_key": case["data_key"]}
        kms = RecordedKms({"kms": [{**answer, "context": case["encryption_context"]}]})
        book = {"ids": ["lot"] * len(case["amounts"])}
        buyer = {"name": case["buyer"], "kms": case["kms"], "key": bytes.fromhex(case["key"])}
        image = bytes.fromhex(case["image"])
        digest, file = bytes.fromhex(case["manifest"]), bytes.fromhex(case["file"])
        assert by_the_page.read_bid(book, digest, buyer, file, kms.ask, image=image) == case["amounts"]
        assert by_the_page.sha384(file).hex() == case["sha384"]
    for case in vector("seal"):
        data = bytes.fromhex(case["manifest"])
        manifest = by_the_page.read_manifest(data, "aws")
        signed = [bytes.fromhex(seal) for seal in case["signed"]]
        digest, image, bids = by_the_page.read_seal(manifest, by_the_page.sha384(data), signed)
        assert image.hex() == case["image"]
        assert (digest.hex(), [[name, d.hex()] for name, d in bids]) == (case["sha384"], case["bids"])
    for case in vector("result"):
        assert (
            by_the_page.receipt_user_data(bytes.fromhex(case["encoded"])).hex() == case["receipt_user_data"]
        )
    frame = wire.encode_frame(wire.Frame(1, "alive", {"nonce": bytes(16)}))
    assert by_the_page.frame(1, "alive", {"nonce": bytes(16)}) == frame


number = st.sampled_from([0, 1, 2, 3, 5, 2**53 - 2, 2**53 - 1, 2**53, 2**64 - 1]) | st.integers(0, 9)
KEYS = [ec.derive_private_key(i + 1, ec.SECP384R1()) for i in range(4)]


@given(
    st.integers(1, 4).flatmap(
        lambda lots: st.tuples(
            st.lists(st.integers(0, 6), min_size=lots, max_size=lots),
            st.lists(st.lists(number, min_size=lots, max_size=lots + 1), min_size=1, max_size=4),
        )
    ),
    st.sampled_from(sorted(messages.DISCLOSURE)),
    st.randoms(use_true_random=False),
)
def test_both_implementations_agree_whatever_the_order(
    table: tuple[list[int], list[list[int]]], rule: str, random: Any
) -> None:
    """Any bids, reserves, rule, and order of seals give the same canonical bytes by page and program."""
    reserves, rows = table
    buyers = tuple(
        messages.Buyer(f"b{i}", spki_of(KEYS[i]), b"{}", arn_of(i), "s3://bids/") for i in range(len(rows))
    )
    lots = messages.make_lots((f"lot-{i}", reserve) for i, reserve in enumerate(reserves))
    book = messages.Manifest("auction", "EUR", rule, lots, buyers, 1, 2)
    files, kms = [], []
    for buyer, row in zip(buyers, rows, strict=True):
        key, wrapped = os.urandom(32), os.urandom(8)
        bound = messages.Binding.of(book, buyer, PCR0)
        content = b"".join(amount.to_bytes(8, "big") for amount in row)
        files.append(
            (buyer.name, messages.encrypt0(content, key, wrapped_key=wrapped, external_aad=bound.aad))
        )
        answer = {"key": buyer.kms, "wrapped_key": wrapped.hex(), "context": bound.context}
        kms.append({**answer, "data_key": key.hex()})
    sealed = tuple((name, messages.bid_digest(file)) for name, file in files)
    payload = messages.Seal(book.digest, bytes(32), PCR0, sealed).encode()
    seals = [messages.sign1(payload, KEYS[i], f"b{i}".encode()) for i in range(len(rows))]
    case = {
        "image": PCR0.hex(),
        "manifest": book.encode().hex(),
        "seals": [seal.hex() for seal in seals],
        "bids": [(name, file.hex()) for name, file in files],
        "kms": kms,
    }
    first = by_program(case)
    assert "result" in first
    random.shuffle(case["seals"])
    random.shuffle(case["kms"])
    assert by_program(case) == by_page(case) == first


@given(
    st.recursive(
        st.integers(-(2**63), 2**64 - 1)
        | st.binary(max_size=300)
        | st.text(max_size=30)
        | st.booleans()
        | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=30), inner, max_size=4),
        max_leaves=12,
    )
)
def test_both_write_the_same_cbor(value: Any) -> None:
    """One encoding per value, whoever writes it."""
    try:
        written = canonical.dumps(value)
    except messages.MessageError:
        return  # nested deeper than a message may be
    assert by_the_page.write(value) == written
    assert by_the_page.read(written) == value == canonical.loads(written)


@given(
    st.binary(max_size=40) | st.sampled_from([bytes.fromhex(c["manifest"]) for c in AUCTIONS[:1]]), st.data()
)
def test_both_read_the_same_cbor(data: bytes, draw: st.DataObject) -> None:
    """Bytes that one refuses as CBOR the other refuses."""
    changed = bytearray(data)
    if changed:
        changed[draw.draw(st.integers(0, min(len(changed) - 1, 60)))] ^= draw.draw(st.integers(0, 255))
    try:
        mine: Any = canonical.loads(bytes(changed))
    except messages.MessageError:
        mine = None
    try:
        theirs: Any = by_the_page.read(bytes(changed))
    except by_the_page.Bad:
        theirs = None
    assert mine == theirs
