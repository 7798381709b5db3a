"""The COSE envelope: one shape, one algorithm, one length of signature, two spellings."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from coattest_verify.attestation import Malformed, parse_unverified
from coattest_verify.attestation.limits import DOCUMENT_MAX, PAYLOAD_MAX, SIGNATURE_SIZE
from support.verify.nitro_ca import (
    NOW,
    P384_ORDER,
    PROTECTED,
    Raw,
    cbor,
    check,
    codes,
    document,
    envelope,
    fields,
    head,
    sign,
    usual_chain,
)

KEY = usual_chain().key
PAYLOAD = cbor(fields())
SIGNATURE = sign(PAYLOAD, KEY)


def test_accepts_both_spellings() -> None:
    """A document passes without a tag and with tag 18, in its shortest form."""
    assert check(envelope(PAYLOAD, SIGNATURE)).ok
    assert check(envelope(PAYLOAD, SIGNATURE, tag=b"\xd2")).ok


@pytest.mark.parametrize("tag", ["d1", "d3", "d812", "d90012", "d2d2", "d8 3d d2", "c2", "d9d9f7"])
def test_refuses_any_other_tag(tag: str) -> None:
    """COSE_Mac0, COSE_Encrypt0, CWT, a longer 18, 18 twice, self-described CBOR: all refused."""
    assert codes(check(envelope(PAYLOAD, SIGNATURE, tag=bytes.fromhex(tag)))) == {"envelope"}


SWAPPED = {
    "ES256": "a10126",
    "ES512": "a1013823",
    "RS256": "a101390100",
    "EdDSA": "a10127",
    "HMAC 256": "a10105",
    "the direct key (-6)": "a10125",
    "algorithm -1, as QEMU signs": "a10120",
    "no algorithm": "a0",
    "no header": "",
    "ES384 with its integer one byte longer": "a101390022",
    "ES384 with its key one byte longer": "a118013822",
    "ES384 in an indefinite map": "bf013822ff",
    "ES384 with a key id": "a2013822044101",
    "ES384 and then ES256": "a20138220126",
    "ES384 by name": "a1016545533338 34".replace(" ", ""),
    "critical headers": "a20138220281 04".replace(" ", ""),
    "something that is not CBOR": "ff",
    "something long": "58" * 40,
}


@pytest.mark.parametrize("protected", SWAPPED.values(), ids=SWAPPED)
def test_never_takes_the_algorithm_from_the_document(protected: str) -> None:
    """Any protected header but a1013822 is refused, even when the signature is right for that header."""
    header = bytes.fromhex(protected)
    verdict = check(envelope(PAYLOAD, sign(PAYLOAD, KEY, protected=header), protected=header))
    assert codes(verdict) == {"algorithm"}
    assert verdict.findings[0].where == "protected"


def test_says_which_algorithm_it_found() -> None:
    """The finding shows the header in bytes and in words."""
    (finding,) = check(envelope(PAYLOAD, SIGNATURE, protected=bytes.fromhex("a10126"))).findings
    assert finding.found == "a10126 ({1: -7})"
    assert finding.expected == "a1013822 ({1: -35})"


SAID = {
    "": ("document at byte 0", "the end: it is cut off"),
    "d2": ("document at byte 1", "the end: it is cut off"),
    "8444a101": ("document at byte 4", "the end: it is cut off"),
    "83": ("document", "bytes 83"),
    "d283a1": ("document", "bytes 83a1"),
    "838485": ("document", "bytes 8384"),
    "8440": ("protected", "no bytes"),
    "84581e" + "00" * 30: ("protected", "00" * 30),
    "845821" + "00" * 33: ("protected", "00" * 32),
    "84582041" + "00" * 31: ("protected", "41" + "00" * 31),
    "84582158" + "1e" + "00" * 31: ("protected", f"581e{'00' * 30} ({bytes(30)!r})"),
    "8444a1013822": ("document at byte 6", "the end: it is cut off"),
    "8444a1013822f6": ("unprotected", "byte f6"),
    "d28444a1013822f6a0": ("unprotected", "byte f6"),
}


@pytest.mark.parametrize("data", SAID)
def test_says_which_part_of_the_envelope_is_another(data: str) -> None:
    """The part by its name, and at most 32 of the bytes that were found in its place."""
    (finding,) = check(bytes.fromhex(data)).findings
    assert (finding.where, finding.found) == SAID[data]


@pytest.mark.parametrize("tag", [b"", b"\xd2"])
def test_a_document_that_is_cut_off_is_said_to_end_where_it_ends(tag: bytes) -> None:
    """At every length: never a place beyond the end, and in words what is missing."""
    whole = envelope(PAYLOAD, SIGNATURE, tag=tag)
    start = whole.index(PAYLOAD)
    for size in range(len(whole)):
        (finding,) = check(whole[:size]).findings
        place = int(finding.where.removeprefix("document at byte "))
        in_a_head = start - 3 < size < start or 0 < size - start - len(PAYLOAD) < 2
        assert place == size or (in_a_head and size - 3 < place < size)
        assert finding.found is not None
        assert "the end" in finding.found
    (finding,) = check(whole[:-1]).findings
    assert (finding.expected, finding.found) == (
        "96 bytes of signature",
        "the end after 95 of them: it is cut off",
    )
    (finding,) = check(whole[: start + 7]).findings
    assert finding.expected == f"{len(PAYLOAD)} bytes of payload, then the signature"


def test_what_follows_the_document_is_named() -> None:
    """By its place and how much it is."""
    whole = envelope(PAYLOAD, SIGNATURE)
    (finding,) = check(whole + b"\n\n").findings
    assert (finding.where, finding.expected, finding.found) == (
        f"document at byte {len(whole)}",
        "the end",
        "2 more bytes",
    )


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA512()])
def test_the_digest_is_sha384_whatever_was_signed_with(digest: hashes.HashAlgorithm) -> None:
    """A signature by the right key with another digest is none."""
    assert codes(check(envelope(PAYLOAD, sign(PAYLOAD, KEY, digest=digest)))) == {"signature"}


UNPROTECTED = {
    "null, as brave/nitriding's dummy has it": "f6",
    "an algorithm": "a1013822",
    "a key id": "a1044101",
    "an indefinite empty map": "bfff",
    "an empty map one byte longer": "b800",
    "an empty array": "80",
    "an empty byte string": "40",
}


@pytest.mark.parametrize("unprotected", UNPROTECTED.values(), ids=UNPROTECTED)
def test_the_unprotected_header_is_an_empty_map(unprotected: str) -> None:
    """Nothing unsigned may ride along."""
    data = envelope(PAYLOAD, SIGNATURE, unprotected=Raw(bytes.fromhex(unprotected)))
    assert codes(check(data)) == {"envelope"}


@pytest.mark.parametrize(
    "outer",
    [
        b"\x83" + cbor(PROTECTED) + b"\xa0" + cbor(PAYLOAD),
        b"\x85" + cbor(PROTECTED) + b"\xa0" + cbor(PAYLOAD) + cbor(SIGNATURE) + b"\x00",
        b"\x9f" + cbor(PROTECTED) + b"\xa0" + cbor(PAYLOAD) + cbor(SIGNATURE) + b"\xff",
        b"\x98\x04" + cbor(PROTECTED) + b"\xa0" + cbor(PAYLOAD) + cbor(SIGNATURE),
        b"\xa2" + cbor(PROTECTED) + b"\xa0" + cbor(PAYLOAD) + cbor(SIGNATURE),
        cbor(cbor([PROTECTED, {}, PAYLOAD, SIGNATURE])),
        PAYLOAD,
        b"",
        b"\xd2",
        b"\x84",
        b"\x84\x44",
    ],
)
def test_the_envelope_is_a_definite_array_of_four(outer: bytes) -> None:
    """Three or five parts, an indefinite or longer head, a map, a wrapped or bare payload: all refused."""
    assert not check(outer).ok


@pytest.mark.parametrize(
    "payload",
    [
        Raw(b"\xf6"),
        Raw(b"\x5f" + cbor(PAYLOAD) + b"\xff"),
        Raw(head(2, len(PAYLOAD), 4) + PAYLOAD),
        Raw(head(3, len(PAYLOAD)) + PAYLOAD),
        Raw(PAYLOAD),
        b"",
    ],
    ids=["detached", "in chunks", "with a longer head", "as text", "embedded", "empty"],
)
def test_the_payload_is_one_byte_string(payload: bytes) -> None:
    """A payload of any other form is refused, signed or not."""
    assert not check(envelope(payload, SIGNATURE)).ok


@pytest.mark.parametrize("size", [0, 1, 48, 64, 95, 97, 104, 132])
def test_the_signature_has_96_bytes(size: int) -> None:
    """A signature of any other length is refused before it is looked at."""
    verdict = check(envelope(PAYLOAD, (SIGNATURE * 2)[:size]))
    assert codes(verdict) == {"envelope"}
    assert verdict.findings[0].where == "signature"


def test_a_signature_in_der_is_refused() -> None:
    """COSE signatures are r || s; a DER signature of the same numbers is none."""
    r, s = SIGNATURE[:48], SIGNATURE[48:]
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    assert codes(check(envelope(PAYLOAD, der))) == {"envelope"}


@pytest.mark.parametrize(
    ("r", "s"),
    [(0, 0), (0, 1), (1, 0), (1, 1), (P384_ORDER, 1), (1, P384_ORDER), (2**384 - 1, 2**384 - 1)],
)
def test_numbers_outside_the_group_are_no_signature(r: int, s: int) -> None:
    """Zero, the order and anything above it are refused ("psychic signatures")."""
    assert codes(check(envelope(PAYLOAD, r.to_bytes(48, "big") + s.to_bytes(48, "big")))) == {"signature"}


def test_r_and_s_exchanged_are_no_signature() -> None:
    """The halves have their places."""
    assert codes(check(envelope(PAYLOAD, SIGNATURE[48:] + SIGNATURE[:48]))) == {"signature"}


def test_high_and_low_s_both_pass() -> None:
    """AWS signs with either; neither spelling of s is asked for."""
    s = int.from_bytes(SIGNATURE[48:], "big")
    other = SIGNATURE[:48] + (P384_ORDER - s).to_bytes(48, "big")
    assert check(envelope(PAYLOAD, SIGNATURE)).ok
    assert check(envelope(PAYLOAD, other)).ok


@pytest.mark.parametrize("half", [slice(0, 48), slice(48, 96)], ids=["r", "s"])
def test_leading_zeros_belong_to_the_number(half: slice) -> None:
    """A signature whose r or s begins with a zero byte passes; without that byte it is refused."""
    signature = next(found for found in iter(lambda: sign(PAYLOAD, KEY), None) if found[half][0] == 0)
    assert check(envelope(PAYLOAD, signature)).ok
    stripped = signature[: half.start] + signature[half.start + 1 :]
    assert codes(check(envelope(PAYLOAD, stripped))) == {"envelope"}
    moved = stripped + b"\x00" if half.start else stripped[:47] + b"\x00" + stripped[47:]
    assert not check(envelope(PAYLOAD, moved)).ok


def test_external_data_and_other_contexts_are_not_signed_over() -> None:
    """A signature over the payload alone, with external data, or for COSE_Sign is none."""
    bare = KEY.sign(PAYLOAD, ec.ECDSA(hashes.SHA384()))
    assert not check(envelope(PAYLOAD, bare[:96])).ok
    assert codes(check(envelope(PAYLOAD, sign(PAYLOAD, KEY, external=b"x")))) == {"signature"}


def test_a_signature_by_another_key_of_the_chain_is_refused() -> None:
    """Only the leaf signs documents, not the CAs above it."""
    for key in usual_chain().keys[:-1]:
        assert codes(check(envelope(PAYLOAD, sign(PAYLOAD, key)))) == {"signature"}


def test_another_documents_signature_is_refused() -> None:
    """A payload with one field changed does not pass under the old signature."""
    changed = cbor(fields(nonce=b"other"))
    assert codes(check(envelope(changed, SIGNATURE))) == {"signature"}


@pytest.mark.parametrize("extra", [b"\x00", b"\xf6", b"\xff", envelope(PAYLOAD, SIGNATURE)])
def test_nothing_follows_the_document(extra: bytes) -> None:
    """Trailing bytes are refused, a second document too."""
    assert not check(document() + extra).ok


def test_every_prefix_is_refused() -> None:
    """A document cut short anywhere is malformed, never an error."""
    whole = document()
    for size in range(len(whole)):
        verdict = check(whole[:size])
        assert not verdict.ok
        assert codes(verdict) <= {"malformed-cbor", "envelope", "algorithm"}


def test_size_limits() -> None:
    """A payload of 16384 bytes is read, of 16385 refused, a document beyond the largest is not looked at."""
    room = PAYLOAD_MAX - len(cbor(fields(padding=b"\x00" * 10_000))) + 10_000
    assert check(document(indefinite=False, padding=b"\x00" * room)).ok
    over = check(document(indefinite=False, padding=b"\x00" * (room + 1)))
    assert (codes(over), over.findings[0].where) == ({"envelope"}, "payload")
    assert codes(check(b"\x84" * (DOCUMENT_MAX + 1))) == {"too-large"}
    assert codes(check(b"\x84" * DOCUMENT_MAX)) == {"malformed-cbor"}
    largest = envelope(bytes(PAYLOAD_MAX), bytes(SIGNATURE_SIZE), tag=b"\xd2")
    assert len(largest) == DOCUMENT_MAX


def test_parse_unverified_raises_with_the_failures() -> None:
    """Without a verdict to carry them, the problems come in the one error type; fields come without any
    check.
    """
    with pytest.raises(Malformed) as caught:
        parse_unverified(b"\x00")
    assert [finding.code for finding in caught.value.findings] == ["envelope"]
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith("attestation document: document: expected an array of 4")
    assert parse_unverified(envelope(PAYLOAD, bytes(96))).timestamp == NOW
