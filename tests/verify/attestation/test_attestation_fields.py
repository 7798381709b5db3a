"""The fields of the payload: types, bounds, what is tolerated, and what is another type of document."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from coattest_verify.attestation import (
    ExpectPcrs,
    ExpectPublicKey,
    MaxAge,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    parse_unverified,
)
from support.verify.nitro_ca import (
    IMAGE,
    MODULE,
    NOW,
    NOW_MS,
    PCRS,
    Pairs,
    Raw,
    Stream,
    cbor,
    check,
    codes,
    document,
    failed,
    fields,
    usual_chain,
)

LEAF = usual_chain().certificate
BUNDLE = usual_chain().cabundle

BAD: dict[str, tuple[str, Any]] = {
    "no module_id": ("module_id", ...),
    "an empty module_id": ("module_id", ""),
    "a null module_id": ("module_id", None),
    "module_id in bytes": ("module_id", MODULE.encode()),
    "no digest": ("digest", ...),
    "SHA256": ("digest", "SHA256"),
    "sha384": ("digest", "sha384"),
    "SHA384 in bytes": ("digest", b"SHA384"),
    "no timestamp": ("timestamp", ...),
    "timestamp 0": ("timestamp", 0),
    "a negative timestamp": ("timestamp", -NOW_MS),
    "a timestamp of True": ("timestamp", True),
    "a timestamp in text": ("timestamp", str(NOW_MS)),
    "a timestamp as a float": ("timestamp", Raw(bytes.fromhex("fb42798b1d8c000000"))),
    "a timestamp beyond the year 9999": ("timestamp", 253_402_300_800_000),
    "the largest timestamp": ("timestamp", 2**64 - 1),
    "no pcrs": ("pcrs", ...),
    "null pcrs": ("pcrs", None),
    "empty pcrs": ("pcrs", {}),
    "pcrs in an array": ("pcrs", list(PCRS.values())),
    "33 pcrs": ("pcrs", {index: bytes(48) for index in range(33)}),
    "no certificate": ("certificate", ...),
    "an empty certificate": ("certificate", b""),
    "a null certificate": ("certificate", None),
    "a certificate of 1025 bytes": ("certificate", bytes(1025)),
    "a certificate in text": ("certificate", "MII"),
    "no cabundle": ("cabundle", ...),
    "a null cabundle": ("cabundle", None),
    "an empty cabundle": ("cabundle", []),
    "9 certificates in cabundle": ("cabundle", [LEAF] * 9),
    "cabundle as bytes": ("cabundle", BUNDLE[0]),
    "cabundle as a map": ("cabundle", dict(enumerate(BUNDLE))),
    "a public_key of 1025 bytes": ("public_key", bytes(1025)),
    "a public_key in text": ("public_key", "key"),
    "a public_key of False": ("public_key", False),
    "user_data of 1025 bytes": ("user_data", bytes(1025)),
    "user_data in a map": ("user_data", {}),
    "a nonce of 1025 bytes": ("nonce", bytes(1025)),
    "a nonce of 0": ("nonce", 0),
    "a nonce in text": ("nonce", "nonce"),
}


@pytest.mark.parametrize(("name", "value"), BAD.values(), ids=BAD)
def test_refuses_a_field_out_of_bounds(name: str, value: Any) -> None:
    """A field that is missing, of another type or out of bounds is named, though the signature is right."""
    assert failed(check(document(**{name: value}))) == {("field", name)}


BAD_PCRS: dict[str, tuple[str, Any]] = {
    "index 32": ("pcrs", {32: bytes(48)}),
    "index -1": ("pcrs", {-1: bytes(48)}),
    "an index in text": ("pcrs", {"0": bytes(48)}),
    "a register of 47 bytes": ("pcrs[7]", {7: bytes(47)}),
    "a register of 49 bytes": ("pcrs[7]", {7: bytes(49)}),
    "an empty register": ("pcrs[7]", {7: b""}),
    "a null register": ("pcrs[7]", {7: None}),
    "a register in text": ("pcrs[7]", {7: "0" * 48}),
}


@pytest.mark.parametrize(("field", "pcrs"), BAD_PCRS.values(), ids=BAD_PCRS)
def test_refuses_a_register_out_of_bounds(field: str, pcrs: Any) -> None:
    """One bad register among good ones is named."""
    assert failed(check(document(pcrs={**PCRS, **pcrs}))) == {("field", field)}


@pytest.mark.parametrize("entry", [b"", bytes(1025), None, "MII", [BUNDLE[1]]])
def test_refuses_an_entry_of_cabundle_out_of_bounds(entry: Any) -> None:
    """One bad entry of cabundle is named by its place."""
    assert failed(check(document(cabundle=[*BUNDLE[:1], entry, *BUNDLE[2:]]))) == {("field", "cabundle[1]")}


def test_names_all_bad_fields_at_once() -> None:
    """Nobody fixes one field to hear of the next."""
    data = document(module_id="", digest="MD5", timestamp=0, pcrs={}, certificate=b"", cabundle=[], nonce=1)
    expected = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "nonce"}
    assert failed(check(data)) == {("field", name) for name in expected}


def test_a_failure_says_what_was_found() -> None:
    """The finding has the bound, what was there, and the section that asks for it."""
    (missing,) = check(document(digest=...)).findings
    assert (missing.expected, missing.found) == ('"SHA384"', "no such field")
    (null,) = check(document(certificate=None)).findings
    assert (null.expected, null.found) == ("1 to 1024 bytes", "null")
    (long,) = check(document(nonce=bytes(1025))).findings
    assert (long.expected, long.found) == ("null or at most 1024 bytes", "1025 bytes")
    (listed,) = check(document(user_data=[1, 2])).findings
    assert listed.found == "an array of 2"
    (mapped,) = check(document(user_data={1: 2})).findings
    assert mapped.found == "a map of 1"
    (index,) = check(document(pcrs={**PCRS, 32: bytes(48)})).findings
    assert (index.expected, index.found) == ("indices from 0 to 31", "32")
    (text,) = check(document(user_data="x" * 5000)).findings
    assert len(text.found) <= 80
    assert "section" in text.rule
    assert "3.2.2" in text.rule


GOOD: dict[str, dict[str, Any]] = {
    "timestamp in the leaf's first moment": {"timestamp": NOW_MS - 300_000},
    "32 registers": {"pcrs": {**{index: bytes(48) for index in range(32)}, **PCRS}},
    "17 registers": {"pcrs": {**PCRS, 16: bytes(48)}},
    "registers with gaps": {"pcrs": {0: PCRS[0], 1: PCRS[1], 2: PCRS[2], 31: bytes(48)}},
    "a public_key of 1 byte": {"public_key": b"\x00"},
    "a public_key of 1024 bytes": {"public_key": bytes(1024)},
    "empty user_data": {"user_data": b""},
    "user_data of 746 bytes, as a real document has": {"user_data": bytes(746)},
    "user_data of 1024 bytes": {"user_data": bytes(1024)},
    "an empty nonce": {"nonce": b""},
    "a nonce of 1024 bytes": {"nonce": bytes(1024)},
    "a long module_id": {"module_id": "i-" + "0" * 500},
}


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_accepts_fields_at_their_bounds(changes: dict[str, Any]) -> None:
    """What the specification allows passes, without a notice, in strict mode too."""
    verdict = check(document(**changes), strict=True)
    assert verdict.findings == ()
    assert verdict.notices == ()


@pytest.mark.parametrize("size", [1, 1024])
def test_certificates_at_the_bounds_of_their_size_are_looked_at(size: int) -> None:
    """1 and 1024 bytes are within bounds: what is wrong with them is that they are no certificates."""
    assert ("certificate", "certificate") in failed(check(document(certificate=bytes(size))))
    assert ("certificate", "cabundle[2]") in failed(check(document(cabundle=[*BUNDLE[:2], bytes(size)])))
    eight = [*BUNDLE, *(bytes([number]) * size for number in range(4))]
    assert codes(check(document(cabundle=eight))) == {"certificate"}


def test_one_register_is_a_map_of_registers() -> None:
    """The specification asks for one at least: it is read, but shows nothing of debug mode."""
    data = document(pcrs={0: PCRS[0]})
    assert check(data, ExpectPcrs({0: PCRS[0]}), UnsafeAllowDebug()).ok
    assert codes(check(data, ExpectPcrs({0: PCRS[0]}))) == {"debug-mode"}


@pytest.mark.parametrize("timestamp", [1, 253_402_300_799_999])
def test_timestamps_at_their_bounds_are_read(timestamp: int) -> None:
    """The first millisecond of 1970 and the last of the year 9999 are dates."""
    found = parse_unverified(document(timestamp=timestamp))
    assert found.timestamp_ms == timestamp
    assert found.timestamp.year == (1970 if timestamp == 1 else 9999)


def test_returns_every_field_as_it_was_signed() -> None:
    """The document of a passed verdict has exactly what the enclave's hypervisor wrote."""
    found = check(document(public_key=b"key", user_data=b"data", nonce=b"once")).document
    assert (found.module_id, found.timestamp_ms, found.timestamp) == (MODULE, NOW_MS, NOW)
    assert (found.public_key, found.user_data, found.nonce) == (b"key", b"data", b"once")
    assert dict(found.pcrs) == PCRS
    assert found.certificate == LEAF
    assert found.cabundle == tuple(BUNDLE)
    bare = check(document(nonce=None)).document
    assert (bare.public_key, bare.user_data, bare.nonce) == (None, None, None)


def test_fields_are_read_by_name_and_not_by_place() -> None:
    """Reordered keys change nothing: the order is AWS's choice, and it is signed."""
    pairs = tuple(fields(nonce=b"n", user_data=b"u").items())
    for rotation in range(len(pairs)):
        turned = (*pairs[rotation:], *pairs[:rotation])[::-1]
        found = check(document(payload=cbor(Pairs(turned)))).document
        assert (found.nonce, found.user_data, found.public_key) == (b"n", b"u", None)


@pytest.mark.parametrize("indefinite", list(itertools.product([False, True], repeat=3)))
def test_collections_of_the_payload_may_be_indefinite(indefinite: tuple[bool, bool, bool]) -> None:
    """Payload, pcrs and cabundle are read in both forms: AWS changed the payload's in 2025."""
    outer, pcrs, bundle = indefinite
    changes = {
        "pcrs": Pairs(tuple(PCRS.items()), indefinite=pcrs),
        "cabundle": Stream(BUNDLE) if bundle else BUNDLE,
    }
    assert check(document(indefinite=outer, **changes)).ok


@pytest.mark.parametrize("indefinite", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_a_duplicate_key_is_refused_whichever_came_first(indefinite: bool, first: bool) -> None:
    """Two values of one field: a reader that takes the last (or the first) would be steered by the other."""
    pairs = tuple(fields().items())
    extra = (("pcrs", {0: b"\xaa" * 48, 1: b"\xbb" * 48, 2: b"\xcc" * 48}),)
    payload = cbor(Pairs(extra + pairs if first else pairs + extra, indefinite=indefinite))
    assert codes(check(document(payload=payload))) == {"malformed-cbor"}


@pytest.mark.parametrize(
    "key",
    [Raw(b"\x00"), Raw(b"\x18\x00"), Raw(b"\xf4"), Raw(b"\xf9\x00\x00")],
    ids=["0", "long 0", "False", "0.0"],
)
def test_a_second_register_that_collides_is_refused(key: Raw) -> None:
    """PCR0 once more under 0, a longer 0, False or 0.0 cannot replace the first one."""
    pcrs = Pairs((*PCRS.items(), (key, b"\xaa" * 48)))
    assert codes(check(document(pcrs=pcrs))) == {"malformed-cbor"}


@pytest.mark.parametrize("payload", [b"\x80", b"\x00", b"\xf6", b"\x40", b"\x9f\xff", cbor([fields()])])
def test_a_payload_that_is_no_map_is_refused(payload: bytes) -> None:
    """A signed value of another kind is no document."""
    assert failed(check(document(payload=payload))) == {("field", "payload")}


@pytest.mark.parametrize(
    "payload", [cbor(fields()) + b"\x00", b"\xbf" + cbor(fields())[1:], b"\xc0" + cbor(fields())]
)
def test_a_payload_that_is_no_strict_cbor_is_refused(payload: bytes) -> None:
    """Bytes after the map, a map without an end, a tag: refused under a right signature too."""
    verdict = check(document(payload=payload))
    assert codes(verdict) == {"malformed-cbor"}
    assert verdict.findings[0].where.startswith("payload at byte ")


UNKNOWN: dict[str, tuple[Any, Any]] = {
    "text": ("region", "eu-central-1"),
    "a float": ("load", Raw(bytes.fromhex("fb3ff8000000000000"))),
    "nested": ("versions", [{"nsm": [1, {"deep": b""}]}]),
    "an integer key": (7, True),
    "null": ("reserved", None),
}


@pytest.mark.parametrize(("name", "value"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_field_is_reported_and_tolerated_unless_strict(name: Any, value: Any) -> None:
    """AWS may add a field: the verdict says so; strict mode refuses."""
    data = document(payload=cbor({**fields(), name: value}))
    verdict = check(data)
    assert verdict.ok
    assert [(notice.code, notice.where) for notice in verdict.notices] == [("unknown-field", repr(name))]
    assert codes(check(data, strict=True)) == {"unknown-field"}


def test_a_nitro_tpm_document_is_another_type() -> None:
    """Same root, same chain, but an EC2 instance's: refused as such, in both of its marks, strict or not."""
    registers = fields(module_id="i-0123456789abcdef0-tpm0000000000000000", pcrs=..., nitrotpm_pcrs=PCRS)
    assert codes(check(document(payload=cbor(registers)))) == {"nitro-tpm"}
    for strict in (False, True):
        both = document(nitrotpm_pcrs=PCRS)
        assert failed(check(both, strict=strict)) == {("nitro-tpm", "payload")}
        assert check(both, strict=strict).findings[0].found == "nitrotpm_pcrs"
        module = document(module_id="i-0123456789abcdef0-tpm0000000000000000")
        assert "-tpm" in check(module, strict=strict).findings[0].found
        assert codes(check(module, UnsafeAnyMeasurement(), UnsafeAllowDebug(), strict=strict)) == {
            "nitro-tpm"
        }


def test_an_absent_optional_field_is_null_with_a_notice() -> None:
    """The specification makes the three optional; every real document has them, so strict mode wants them."""
    data = document(public_key=..., user_data=..., nonce=...)
    verdict = check(data, IMAGE, ExpectPublicKey(None))
    assert verdict.ok
    assert {(n.code, n.where) for n in verdict.notices} == {
        ("loose-field", name) for name in ("public_key", "user_data", "nonce")
    }
    assert codes(check(data, strict=True)) == {"loose-field"}


def test_an_empty_public_key_passes_with_a_notice_and_is_not_null() -> None:
    """The rule for the real one of 2021: tolerated, never a key, never the absence of one."""
    data = document(public_key=b"")
    verdict = check(data)
    assert verdict.document.public_key == b""
    assert [(n.code, n.where, n.found) for n in verdict.notices] == [("loose-field", "public_key", "0 bytes")]
    assert codes(check(data, IMAGE, ExpectPublicKey(None))) == {"public-key"}
    assert codes(check(data, IMAGE, ExpectPublicKey(b"key"))) == {"public-key"}
    assert codes(check(data, strict=True)) == {"loose-field"}


@pytest.mark.parametrize("size", [32, 64])
def test_a_register_of_another_legal_size_passes_with_a_notice(size: int) -> None:
    """The specification allows 32 and 64 bytes; with digest SHA384 they are odd, so strict mode refuses."""
    data = document(pcrs={**PCRS, 9: bytes(size)})
    verdict = check(data)
    assert verdict.ok
    assert [(n.code, n.where) for n in verdict.notices] == [("loose-field", "pcrs[9]")]
    assert codes(check(data, strict=True)) == {"loose-field"}


def test_seconds_are_not_milliseconds() -> None:
    """A timestamp in seconds is the year 1970 in milliseconds: outside of the certificate's life, and too
    old.
    """
    data = document(timestamp=NOW_MS // 1000)
    assert codes(check(data)) == {"timestamp-outside-certificate"}
    assert codes(check(data, IMAGE, MaxAge(60_000))) == {"timestamp-outside-certificate", "too-old"}


def test_parse_unverified_reads_what_nobody_signed() -> None:
    """The function whose name says so returns the fields of a forged document."""
    forged = bytearray(document(nonce=b"forged"))
    forged[-1] ^= 1
    assert parse_unverified(bytes(forged)).nonce == b"forged"
    assert codes(check(bytes(forged))) == {"signature"}


@pytest.mark.parametrize(("count", "notices"), [(16, 16), (17, 17), (1500, 17)])
def test_unknown_fields_beyond_a_few_are_counted(count: int, notices: int) -> None:
    """A payload can be full of fields that nobody knows; its verdict is not."""
    names = {f"{number:04x}": 0 for number in range(count)}
    verdict = check(document(**names), strict=True)
    assert len(verdict.notices) == len(verdict.findings) == notices
    assert verdict.notices[15].where == "'000f'"
    if count > 16:
        assert (verdict.notices[16].where, verdict.notices[16].found) == (
            "payload",
            f"{count - 16} more of them",
        )
