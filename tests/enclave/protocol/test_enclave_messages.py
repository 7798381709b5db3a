"""Manifest, seal, result: the vectors in ./vectors, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.protocol import canonical, cose
from coattest_verify.auction import messages
from coattest_verify.auction.messages import (
    Lot,
    LotList,
    Manifest,
    Result,
    ResultFile,
    Seal,
    Tie,
    Unsold,
    Won,
    make_lots,
)
from support.auction import deciding, make_vectors
from support.auction.auctions import outcomes
from support.auction.make_vectors import manifest
from support.auction.vector_keys import IMAGE, RELEASE, private_key

VECTORS = Path(__file__).parent / "vectors"
BOOK = manifest(messages.FIRST_PRICE)
FIELDS = canonical.loads(BOOK.encode())
DIGESTS = (("buyer-1", bytes(48)), ("buyer-2", b"\x02" * 48))
SEAL = Seal(BOOK.digest, RELEASE, IMAGE, DIGESTS)


def vector(name: str) -> list[dict[str, Any]]:
    """The cases of a vector file."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    assert cases
    return cases


def test_the_vector_files_are_what_the_generator_writes() -> None:
    """Code and committed vectors agree: a change of any format shows as a changed file."""
    for name, content in make_vectors.vectors().items():
        assert vector(name) == json.loads(json.dumps(content))


def test_manifest_vectors() -> None:
    """Each manifest decodes to its fields, encodes to its bytes and has its digest."""
    for case in vector("manifest"):
        encoded = bytes.fromhex(case["encoded"])
        book = Manifest.decode(encoded)
        fields = case["fields"]
        assert book.encode() == encoded
        assert book.digest.hex() == case["sha384"]
        assert [list(lot) for lot in LotList(book.lots)] == fields["lots"]
        assert make_lots(map(tuple, fields["lots"])) == book.lots
        assert [buyer.key.hex() for buyer in book.buyers] == [b["key"] for b in fields["buyers"]]
        assert (book.auction, book.rule, book.closes) == (fields["auction"], fields["rule"], fields["closes"])


def test_bid_vectors() -> None:
    """Each bid file decrypts under its key and AAD to its amounts."""
    for case in vector("bid"):
        file, data_key = bytes.fromhex(case["file"]), bytes.fromhex(case["data_key"])
        manifest, key, image = (bytes.fromhex(case[name]) for name in ("manifest", "key", "image"))
        bound = messages.Binding(manifest, case["buyer"], key, image, case["kms"])
        assert bound.aad.hex() == case["external_aad"]
        assert bound.context == case["encryption_context"]
        plaintext = cose.decrypt0(file, data_key, external_aad=bound.aad)
        assert list(messages.unpack_bids(plaintext, len(case["amounts"]))) == case["amounts"]
        assert messages.bid_digest(file).hex() == case["sha384"]


def test_seal_vectors() -> None:
    """Each set of signatures is every buyer's over the seal's payload."""
    for case in vector("seal"):
        book = Manifest.decode(bytes.fromhex(case["manifest"]))
        seal = messages.check_seals(book, [bytes.fromhex(signed) for signed in case["signed"]])
        assert seal.encode().hex() == case["payload"]
        assert seal.digest.hex() == case["sha384"]


def test_result_vectors() -> None:
    """Each result follows from its amounts and has its bytes, digest and receipt user_data."""
    for case in vector("result"):
        book = Manifest.decode(bytes.fromhex(case["manifest"]))
        result = deciding.result(book, bytes.fromhex(case["seal"]), case["amounts"])
        assert result.encode().hex() == case["encoded"]
        assert [[lot, make_vectors.outcome_text(outcome)] for lot, outcome in result.lots] == case["outcomes"]
        assert Result.decode(result.encode()) == result
        assert messages.receipt_user_data(result.encode()).hex() == case["receipt_user_data"]


def changed(**fields: Any) -> bytes:
    """The manifest's bytes with some fields replaced."""
    return canonical.dumps({**FIELDS, **fields})


def changed_buyer(**fields: Any) -> bytes:
    """The manifest's bytes with some fields of buyer-1 replaced."""
    return changed(buyers=[{**FIELDS["buyers"][0], **fields}, FIELDS["buyers"][1]])


ONE, TWO = FIELDS["buyers"]
HOSTILE_MANIFESTS = {
    "empty": b"",
    "not a map": canonical.dumps([]),
    "another purpose": changed(purpose="coattest/seal/v1"),
    "another version": changed(purpose="coattest/manifest/v2"),
    "one more field": changed(extra=1),
    "one field less": canonical.dumps({k: v for k, v in FIELDS.items() if k != "closes"}),
    "unknown rule": changed(rule="all-pay"),
    "auction id with a slash": changed(auction="../x"),
    "auction id empty": changed(auction=""),
    "auction id with a Cyrillic letter": changed(auction="\u0430uction"),
    "auction id of 65 characters": changed(auction="a" * 65),
    "auction id that ends with a newline": changed(auction="auction\n"),
    "currency in lower case": changed(currency="eur"),
    "no lots": changed(lots="", reserves=b""),
    "an empty lot": changed(lots="", reserves=bytes(8)),
    "lots that are an array": changed(lots=["lot-1"], reserves=bytes(8)),
    "lot twice": changed(lots="lot-1\nlot-1", reserves=bytes(16)),
    "lot with a space": changed(lots="lot 1", reserves=bytes(8)),
    "lot with a carriage return": changed(lots="lot-1\r\nlot-2", reserves=bytes(16)),
    "lot with a Cyrillic letter": changed(lots="l\u043et-1", reserves=bytes(8)),
    "lots that end with a line feed": changed(lots="lot-1\n", reserves=bytes(16)),
    "lot of 129 characters": changed(lots="a" * 129, reserves=bytes(8)),
    "reserve over 2**53 - 1": changed(lots="lot-1", reserves=(2**53).to_bytes(8, "big")),
    "reserve of 7 bytes": changed(lots="lot-1", reserves=bytes(7)),
    "one reserve too many": changed(lots="lot-1", reserves=bytes(16)),
    "no reserves": changed(reserves=b""),
    "reserves that are an array": changed(lots="lot-1", reserves=[0]),
    "no buyers": changed(buyers=[]),
    "buyers out of order": changed(buyers=[TWO, ONE]),
    "buyer twice": changed(buyers=[ONE, ONE]),
    "two buyers with one key": changed(buyers=[ONE, {**TWO, "key": ONE["key"]}]),
    "two buyers with one KMS key": changed(buyers=[ONE, {**TWO, "kms": ONE["kms"]}]),
    "65 buyers": changed(buyers=[{**ONE, "name": f"b{i:02}"} for i in range(65)]),
    "buyer with one more field": changed_buyer(extra=1),
    "buyer without certificate": changed_buyer(certificate=b""),
    "buyer name with a colon": changed_buyer(name="a:b"),
    "buyer key that is none": changed_buyer(key=b"key"),
    "KMS alias": changed_buyer(kms="arn:aws:kms:eu-central-1:111122223333:alias/bids"),
    "KMS multi-Region key": changed_buyer(
        kms="arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd56ef123456789012"
    ),
    "KMS bare key id": changed_buyer(kms="1234abcd-12ab-34cd-56ef-123456789001"),
    "KMS region that is a host": changed_buyer(
        kms="arn:aws:kms:evil.example/:111122223333:key/1234abcd-12ab-34cd-56ef-123456789001"
    ),
    "KMS ARN that ends with a newline": changed_buyer(kms=ONE["kms"] + "\n"),
    "bids not on S3": changed_buyer(bids="https://example.com/bid"),
    "bids with a line break": changed_buyer(bids="s3://bucket/a\nb/"),
    "bids at an object": changed_buyer(bids="s3://bucket/a"),
    "bids above a folder": changed_buyer(bids="s3://bucket/../secret/"),
    "bids with a query": changed_buyer(bids="s3://bucket/a?versionId=1/"),
    "bids with an empty folder": changed_buyer(bids="s3://bucket//"),
    "publication before closing": changed(publish_by=FIELDS["closes"] - 1),
    "closing time as text": changed(closes="1"),
}


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_hostile_manifests_are_refused(name: str) -> None:
    """A manifest has exactly its fields, each of its form, and nothing in it appears twice."""
    with pytest.raises(messages.MessageError):
        Manifest.decode(HOSTILE_MANIFESTS[name])


def test_the_hostile_manifests_fail_for_their_one_change() -> None:
    """Unchanged, the same bytes decode."""
    assert Manifest.decode(changed()) == BOOK == Manifest.decode(changed_buyer())


@given(st.integers(0, len(BOOK.encode()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_manifest_or_none(position: int, flip: int) -> None:
    """No byte of a manifest can change without its digest changing, and nothing but MessageError escapes."""
    data = bytearray(BOOK.encode())
    data[position] ^= flip
    try:
        other = Manifest.decode(bytes(data))
    except messages.MessageError:
        return
    assert other.digest != BOOK.digest
    assert other.encode() == bytes(data)


def test_buyers_are_found_by_name() -> None:
    """A buyer of the manifest is returned, another name refused."""
    assert messages.named_buyer(BOOK, "buyer-2") is BOOK.buyers[1]
    with pytest.raises(messages.MessageError):
        messages.named_buyer(BOOK, "buyer-3")


def signed(seal: Seal | bytes = SEAL, *, keys: tuple[int, int] = (1, 2)) -> list[bytes]:
    """Both buyers' signatures over a seal."""
    payload = seal if isinstance(seal, bytes) else seal.encode()
    return [messages.sign1(payload, private_key(k), f"buyer-{i}".encode()) for i, k in enumerate(keys, 1)]


def test_every_buyer_has_sealed() -> None:
    """Both signatures, in any order, give the seal."""
    seals = signed()
    assert messages.check_seals(BOOK, seals) == SEAL
    assert messages.check_seals(BOOK, seals[::-1]) == SEAL


def unsealed() -> dict[str, list[bytes]]:
    """Sets of signatures that are no seal of BOOK."""
    good = signed()
    other_release = Seal(BOOK.digest, bytes(32), IMAGE, DIGESTS)
    return {
        "none": [],
        "one missing": good[:1],
        "one twice": [good[0], good[0]],
        "one too many": [*good, good[0]],
        "keys swapped": signed(keys=(2, 1)),
        "one key for both": signed(keys=(1, 1)),
        "a stranger's key": signed(keys=(1, 3)),
        "different releases": [good[0], signed(other_release)[1]],
        "another manifest": signed(Seal(bytes(48), RELEASE, IMAGE, DIGESTS)),
        "one bid missing": signed(Seal(BOOK.digest, RELEASE, IMAGE, DIGESTS[:1])),
        "bids in another order": signed(Seal(BOOK.digest, RELEASE, IMAGE, DIGESTS[::-1])),
        "a bid of a stranger": signed(
            Seal(BOOK.digest, RELEASE, IMAGE, (DIGESTS[0], ("buyer-3", bytes(48))))
        ),
        "a bid twice": signed(Seal(BOOK.digest, RELEASE, IMAGE, (*DIGESTS, DIGESTS[1]))),
        "another purpose": signed(canonical.dumps({**canonical.loads(SEAL.encode()), "purpose": "x"})),
        "one more field": signed(canonical.dumps({**canonical.loads(SEAL.encode()), "x": 1})),
        "not a map": signed(canonical.dumps([1])),
        "a short digest": signed(
            canonical.dumps({**canonical.loads(SEAL.encode()), "bids": [["buyer-1", b""], ["buyer-2", b""]]})
        ),
        "junk": [b"junk", b"junk"],
    }


@pytest.mark.parametrize("name", unsealed())
def test_what_not_every_buyer_sealed_is_refused(name: str) -> None:
    """All buyers, each with its own key, over the same bytes about this manifest; else no seal."""
    with pytest.raises(messages.MessageError):
        messages.check_seals(BOOK, unsealed()[name])


def test_every_single_byte_change_of_a_seal_is_refused() -> None:
    """No byte of any buyer's signed seal can change."""
    good = signed()
    for position in range(len(good[0])):
        for flip in (0x01, 0x03, 0x80):
            data = bytearray(good[0])
            data[position] ^= flip
            with pytest.raises(messages.MessageError):
                messages.check_seals(BOOK, [bytes(data), good[1]])


RESULT = Result(
    "auction",
    BOOK.digest,
    SEAL.digest,
    "EUR",
    messages.SECOND_PRICE,
    outcomes(
        ("buyer-1", "buyer-2"),
        [("lot-1", Won("buyer-1", 5)), ("lot-2", Tie(("buyer-1", "buyer-2"))), ("lot-3", Unsold())],
        priced=True,
    ),
)


def numbers(*values: int) -> bytes:
    """A column's bytes."""
    return b"".join(value.to_bytes(8, "big") for value in values)


def changed_result(**fields: Any) -> bytes:
    """The result's bytes with some fields replaced."""
    return canonical.dumps({**canonical.loads(RESULT.encode()), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "coattest/alive/v1"},
        {"extra": 1},
        {"rule": "first-price"},
        {"rule": "x"},
        {"manifest": b""},
        {"seal": bytes(47)},
        {"lots": []},
        {"lots": ""},
        {"lots": "lot-1\nlot-2"},
        {"lots": "lot-1\nlot-2\nlot-1"},
        {"lots": "lot-1\nlot-2\nlot-3\n"},
        {"buyers": []},
        {"buyers": ["buyer-2", "buyer-1"]},
        {"buyers": ["buyer-1", "buyer-1"]},
        {"buyers": ["buyer-1"]},
        {"buyers": [1, 2]},
        {"buyers": "ab"},
        {"winners": b""},
        {"winners": bytes(23)},
        {"winners": bytes(32)},
        {"winners": numbers(1, 4, 0)},
        {"winners": numbers(1, 3, 2**63)},
        {"winners": numbers(3, 3, 0)},
        {"winners": numbers(0, 3, 0)},
        {"winners": [1, 3, 0]},
        {"prices": b""},
        {"prices": bytes(23)},
        {"prices": numbers(5, 1, 0)},
        {"prices": numbers(5, 0, 1)},
        {"prices": numbers(2**53, 0, 0)},
        {"prices": [5, 0, 0]},
    ],
)
def test_malformed_results_are_refused(fields: dict[str, Any]) -> None:
    """An outcome has the form of the result's rule; prices under second price only, ties without amounts."""
    assert Result.decode(changed_result(winners=numbers(1, 3, 0), prices=numbers(5, 0, 0))) == RESULT
    with pytest.raises(messages.MessageError):
        Result.decode(changed_result(**fields))


def test_outcomes_are_a_sequence() -> None:
    """Outcomes read by position, from the end and in slices, as a tuple of them would."""
    listed = tuple(RESULT.lots)
    assert len(RESULT.lots) == 3
    assert [RESULT.lots[i] for i in (0, 1, 2, -1)] == [listed[i] for i in (0, 1, 2, -1)]
    assert (RESULT.lots[1:], RESULT.lots[:1]) == (listed[1:], listed[:1])
    with pytest.raises(IndexError):
        RESULT.lots[3]


def test_a_results_size_depends_on_the_manifest_only() -> None:
    """Whoever wins, at whatever price: the bytes are as many."""
    names, sizes = ("buyer-1", "buyer-2"), set()
    for outcome in (Won("buyer-1", 0), Won("buyer-2", 2**53 - 1), Tie(names), Unsold()):
        lots = outcomes(names, [("lot-1", outcome)], priced=True)
        sizes.add(len(Result("a", bytes(48), bytes(48), "EUR", messages.SECOND_PRICE, lots).encode()))
    assert len(sizes) == 1


def test_a_result_file_keeps_its_parts() -> None:
    """Result, receipt and seals come out as they went in; a file without seals is refused."""
    file = ResultFile(RESULT.encode(), b"receipt", tuple(signed()))
    assert ResultFile.decode(file.encode()) == file
    with pytest.raises(messages.MessageError):
        ResultFile.decode(ResultFile(b"r", b"r", ()).encode())


@given(st.binary(max_size=300))
def test_junk_raises_nothing_but_message_error(junk: bytes) -> None:
    """No other exception escapes any message's parser."""
    for decode in (Manifest.decode, Seal.decode, Result.decode, ResultFile.decode):
        with pytest.raises(messages.MessageError):
            decode(junk)


nested = st.recursive(
    st.integers(-2, 2**64 - 1) | st.binary(max_size=50) | st.text(max_size=8) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(sorted(FIELDS)), nested)
def test_well_formed_cbor_of_another_shape_raises_nothing_but_message_error(field: str, value: Any) -> None:
    """Any value in any field of a manifest is accepted for what it is or refused as MessageError."""
    try:
        Manifest.decode(changed(**{field: value}))
    except messages.MessageError:
        pass
    else:
        assert field in ("auction", "currency", "closes", "publish_by") or FIELDS[field] == value
    for decode, message in ((Result.decode, RESULT), (Seal.decode, SEAL)):
        fields = canonical.loads(message.encode())
        with pytest.raises(messages.MessageError):
            decode(canonical.dumps({**fields, field: value, "x": value}))
        for name in fields.keys() - {"auction", "currency"}:
            if fields[name] != value:
                with contextlib.suppress(messages.MessageError):
                    assert decode(canonical.dumps({**fields, name: value})) != message


def test_purposes_do_not_collide() -> None:
    """Receipt, liveness and AAD start with different purposes, so none passes for another."""
    assert canonical.loads(messages.receipt_user_data(b"r"))[0] == messages.RESULT
    assert canonical.loads(messages.alive_user_data()) == [messages.ALIVE]
    assert canonical.loads(messages.Binding(bytes(48), "b", b"k", bytes(48), "a").aad)[0] == messages.BID
    purposes = {
        messages.ALIVE,
        messages.BID,
        messages.MANIFEST,
        messages.RESULT,
        messages.RESULT_FILE,
        messages.SEAL,
    }
    assert len(purposes) == 6


def test_lots_are_named_pairs() -> None:
    """A lot reads by name and by position, and lots as a sequence of them."""
    lots = LotList(make_lots([("a", 1), ("b", 0)]))
    assert (lots[0], lots[-1], lots[:1], len(lots)) == (Lot("a", 1), Lot("b", 0), (Lot("a", 1),), 2)
    assert (Lot("a", 1).id, Lot("a", 1)[1]) == ("a", 1)
