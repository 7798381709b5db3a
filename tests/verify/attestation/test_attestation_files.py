"""Documents, measurements and indexes as they lie in files."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import UsageError
from coattest_verify.attestation import ExpectDocument, MaxAge, UnsafeExpectDebug
from coattest_verify.attestation.files import (
    IndexEntry,
    archive_expectations,
    decode_document,
    parse_time,
    read_archive_index,
    read_measurements,
)
from support.verify.nitro_ca import PCRS, document
from support.verify.usage_errors import usage_error

DOCUMENT = document()
HEX = DOCUMENT.hex().encode()
BASE64 = base64.b64encode(DOCUMENT)
FORMS = {
    "binary": DOCUMENT,
    "binary with tag 18": b"\xd2" + DOCUMENT,
    "hex": HEX,
    "upper-case hex": HEX.upper(),
    "hex with line breaks": b"\r\n".join(HEX[i : i + 64] for i in range(0, len(HEX), 64)) + b"\n",
    "base64": BASE64,
    "base64 with line breaks": base64.encodebytes(DOCUMENT),
    "url-safe base64": base64.urlsafe_b64encode(DOCUMENT),
    "base64 with spaces around": b" \t" + BASE64 + b"\n",
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_a_document_is_read_in_every_form(data: bytes) -> None:
    """Binary as it is, hex and base64 decoded, white space ignored."""
    assert decode_document(data).removeprefix(b"\xd2") == DOCUMENT


@pytest.mark.parametrize("data", [b"", b"\x00\x01", b"no document!", b"\x84", b"a", "grüße".encode()])
def test_what_is_no_form_of_a_document_comes_back_for_the_verifier(data: bytes) -> None:
    """Nothing is guessed at: the verifier says what is wrong with the bytes."""
    assert decode_document(data) == data


@given(st.binary(max_size=100))
def test_decoding_never_raises(data: bytes) -> None:
    """Any bytes are decoded or returned."""
    assert isinstance(decode_document(data), bytes)


NITRO = {
    "HashAlgorithm": "Sha384 { ... }",
    **{f"PCR{index}": PCRS[index].hex() for index in (0, 1, 2)},
}


@pytest.mark.parametrize(
    "shape", [{"Measurements": NITRO}, NITRO, {k: v for k, v in NITRO.items() if "PCR" in k}]
)
def test_measurements_are_read(shape: object) -> None:
    """nitro-cli's JSON, with and without its outer object and its algorithm, gives the registers."""
    assert dict(read_measurements(json.dumps(shape)).pcrs) == {index: PCRS[index] for index in (0, 1, 2)}


def test_register_names_run_to_31() -> None:
    """PCR31 is a register, PCR32 is not; hex may be in upper case."""
    assert dict(read_measurements(json.dumps({"PCR31": "AA" * 48})).pcrs) == {31: b"\xaa" * 48}
    assert dict(read_measurements(json.dumps({"PCR10": "aa" * 48})).pcrs) == {10: b"\xaa" * 48}


BAD = {
    "no JSON": "PCR0",
    "an array": "[]",
    "a number": "1",
    "null": "null",
    "deep nesting": "[" * 100_000,
    "an unknown name": json.dumps({"PCR0": "aa" * 48, "Extra": ""}),
    "a register beyond 31": json.dumps({"PCR32": "aa" * 48}),
    "a register with a leading zero": json.dumps({"PCR01": "aa" * 48}),
    "a short value": json.dumps({"PCR0": "aa" * 47}),
    "a long value": json.dumps({"PCR0": "aa" * 49}),
    "spaces in a value": json.dumps({"PCR0": "aa " * 32}),
    "a number as value": json.dumps({"PCR0": 0}),
    "another hash": json.dumps({"HashAlgorithm": "Sha256", "PCR0": "aa" * 48}),
    "a hash that is no text": json.dumps({"HashAlgorithm": 384, "PCR0": "aa" * 48}),
    "a register twice": '{"PCR0": "A", "PCR0": "B"}'.replace("A", "aa" * 48).replace("B", "bb" * 48),
    "Measurements beside others": json.dumps({"Measurements": NITRO, "More": 1}),
    "Measurements that are no object": json.dumps({"Measurements": ["aa"]}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_measurements_that_do_not_parse_are_refused(text: str) -> None:
    """An unknown name, another hash, a value of another length: nothing is passed over."""
    with pytest.raises(UsageError) as caught:
        read_measurements(text)
    assert (caught.value.exit_code, caught.value.code) == (2, "bad-file")


@pytest.mark.parametrize("shape", [{}, {"HashAlgorithm": "Sha384"}, {"PCR0": "00" * 48}])
def test_measurements_that_pin_nothing_are_refused(shape: object) -> None:
    """No register, or zeros: the expectation refuses to be made."""
    with usage_error("bad-expectation"):
        read_measurements(json.dumps(shape))


def test_an_index_is_read() -> None:
    """Name, digest, mode and time (to the end of its second); what it does not say is None."""
    lines = [
        "filename\tsha256\tdoc_time_utc\tmode\n",
        f"a.bin\t{'ff' * 32}\t2026-01-15T12:00:00+00:00\tprod\r\n",
        f"b.bin\t{'00' * 32}\t\tdebug\n",
    ]
    index = read_archive_index(lines)
    assert index["a.bin"] == IndexEntry(
        b"\xff" * 32, datetime(2026, 1, 15, 12, 0, 0, 999_000, tzinfo=timezone.utc), False
    )
    assert index["b.bin"] == IndexEntry(bytes(32), None, True)
    assert read_archive_index(["filename", "c.bin"]) == {"c.bin": IndexEntry(None, None, None)}


DIGEST = "ab" * 32
BAD_INDEX = {
    "nothing": [],
    "no column of names": ["name\tsha256", f"a.bin\t{DIGEST}"],
    "two columns of names": ["filename\tfilename", "a.bin\tb.bin"],
    "two columns of digests": ["filename\tsha256\tsha256", f"a.bin\t{DIGEST}\t{DIGEST}"],
    "no name": ["filename", ""],
    "a path upwards": ["filename", "../a.bin"],
    "an absolute path": ["filename", "/a.bin"],
    "a path downwards": ["filename", "a/b.bin"],
    "the folder": ["filename", "."],
    "the folder above": ["filename", ".."],
    "the index itself": ["filename", "INDEX.tsv"],
    "a NUL": ["filename", "a\0.bin"],
    "a line break that is none here": ["filename", "a\r.bin"],
    "a name twice": ["filename", "a.bin", "a.bin"],
    "a cell too few": ["filename\tsha256", "a.bin"],
    "a cell too many": ["filename", f"a.bin\t{DIGEST}"],
    "a short digest": ["filename\tsha256", f"a.bin\t{DIGEST[2:]}"],
    "a long digest": ["filename\tsha256", f"a.bin\t{DIGEST}00"],
    "an upper-case digest": ["filename\tsha256", f"a.bin\t{DIGEST.upper()}"],
    "a mode that is none": ["filename\tmode", "a.bin\tDebug"],
    "a time that is none": ["filename\tdoc_time_utc", "a.bin\tyesterday"],
    "a time without its zone": ["filename\tdoc_time_utc", "a.bin\t2026-01-15T12:00:00"],
    "a time after the last": ["filename\tdoc_time_utc", "a.bin\t9999-12-31T23:59:59.999+00:00"],
    "a time before the first": ["filename\tdoc_time_utc", "a.bin\t0001-01-01T00:00:00+01:00"],
    "too many documents": ["filename", *(str(number) for number in range(10_001))],
}


@pytest.mark.parametrize("lines", BAD_INDEX.values(), ids=BAD_INDEX)
def test_an_index_that_does_not_parse_is_refused(lines: list[str]) -> None:
    """Headings, names, digests, modes and times are what they say, each once; nothing is guessed."""
    with usage_error("bad-file", match=r"INDEX\.tsv|ISO 8601|zone|year"):
        read_archive_index(lines)


def test_an_index_of_ten_thousand_documents_is_read() -> None:
    """The largest archive, and its last line."""
    assert "9999" in read_archive_index(["filename", *(str(number) for number in range(10_000))])


def test_an_archive_expects_the_exact_document() -> None:
    """Its bytes; that second, where there is one; debug mode where the index says so. Without a digest,
    nothing is expected, which is an error.
    """
    digest, at = b"\x01" * 32, datetime(2026, 1, 15, tzinfo=timezone.utc)
    assert archive_expectations(IndexEntry(digest, None, None)) == [ExpectDocument(digest)]
    assert archive_expectations(IndexEntry(digest, at, False)) == [ExpectDocument(digest), MaxAge(999)]
    assert archive_expectations(IndexEntry(digest, None, True)) == [
        ExpectDocument(digest),
        UnsafeExpectDebug(),
    ]
    with usage_error("bad-file", match="sha256"):
        archive_expectations(IndexEntry(None, at, True))


def test_times_have_a_zone() -> None:
    """ "Z" and offsets are read on every Python; a time without a zone is refused."""
    noon = datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
    assert parse_time("2026-01-15T12:00:00Z") == parse_time("2026-01-15T13:00:00+01:00") == noon
    assert parse_time("2026-01-15T12:00:00.250Z") - noon == timedelta(milliseconds=250)
    assert parse_time("2026-01-15T13:00:00+01:00").utcoffset() == timedelta(0)
    for text in (
        "2026-01-15T12:00:00",
        "2026-01-15",
        "now",
        "",
        "Z",
        "1768478400",
        "0001-01-01T00:00:00+01:00",
    ):
        with usage_error("bad-file"):
            parse_time(text)
