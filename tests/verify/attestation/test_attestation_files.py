"""Documents, measurements and indexes as they lie in files."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import Rejected
from coattest_verify.attestation import ExpectDocument, MaxAge, UnsafeExpectDebug
from coattest_verify.attestation.files import (
    DOCUMENT_FIELDS,
    IndexEntry,
    archive_expectations,
    decode_document,
    parse_time,
    read_archive_index,
)
from support.verify.nitro_ca import document
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
    "unpadded base64": BASE64.rstrip(b"="),
    "unpadded url-safe base64": base64.urlsafe_b64encode(DOCUMENT).rstrip(b"="),
    "0x and hex": b"0x" + HEX,
    "0X and hex in upper case": b"0X" + HEX.upper(),
    "a byte order mark": b"\xef\xbb\xbf" + BASE64,
    "a quoted string": b'"' + BASE64 + b'"\n',
    "a quoted string with escaped line breaks": json.dumps(base64.encodebytes(DOCUMENT).decode()).encode(),
    "an array of byte values": json.dumps(list(DOCUMENT), indent=2).encode(),
    "an object inside an object": json.dumps(
        {"response": {"attestation": HEX.decode(), "timestamp_ms": 1}, "signature": "aa"}
    ).encode(),
    "an object with byte values": json.dumps({"attestation": list(DOCUMENT)}).encode(),
    **{
        f"an object with {name}": json.dumps({name: BASE64.decode(), "ok": True}).encode()
        for name in DOCUMENT_FIELDS
    },
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_a_document_is_read_in_every_form(data: bytes) -> None:
    """Binary as it is, hex and base64 decoded, white space ignored."""
    assert decode_document(data).removeprefix(b"\xd2") == DOCUMENT


@pytest.mark.parametrize("data", [b"", b"\x00\x01", b"\x84", b"\xff\xfe", b"a\x00b"])
def test_what_is_no_text_comes_back_for_the_verifier(data: bytes) -> None:
    """Nothing is guessed at: the verifier says what is wrong with the bytes."""
    assert decode_document(data) == data


NO_DOCUMENT = {
    "no document!": "text that is not a document in hex, base64 or JSON: 'no document!'",
    "a": "text that is not a document in hex, base64 or JSON: 'a'",
    "grüße": "text that is not a document",
    "0xabc": "text that is not a document",
    "deadbeef": "text that is not a document",
    "Helloworld": "text that is not a document",
    "<html>502</html>": "text that is not a document",
    "{}": "a JSON object without a field named attestation, attestation_document",
    '{"error": "not found"}': "a JSON object without a field",
    '{"attestation": null}': "JSON of type NoneType",
    '{"attestation": "hEQ", "document": "hEQ"}': "several documents: attestation, document",
    '{"attestation": "hEQ", "attestation": "hEQ"}': "not JSON that can be read: 'attestation' appears twice",
    '{"attestation": {"document": ': "not JSON that can be read",
    "[132, 256]": "a JSON array of something else than byte values",
    "[]": "a JSON array of something else than byte values",
    "[true]": "a JSON array of something else than byte values",
    '"': "not JSON that can be read",
    '{"a":' * 6 + '{"attestation": "hEQ"}' + "}" * 6: "a JSON object without a field",
    '{"a": {"b": 1}, "c": {"attestation": "hEQ"}}': "a JSON object without a field",
    "[" * 100: "JSON that nests deeper than 32",
}


@pytest.mark.parametrize("text", NO_DOCUMENT)
def test_text_that_is_no_document_is_named(text: str) -> None:
    """What it is, and what is read."""
    with pytest.raises(Rejected) as caught:
        decode_document(text.encode())
    assert caught.value.code == "not-a-document"
    assert NO_DOCUMENT[text] in caught.value.what


@given(
    st.binary(max_size=100)
    | st.text(max_size=60).map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from((*DOCUMENT_FIELDS, "a")), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_decoding_raises_nothing_else(data: bytes) -> None:
    """Any bytes are decoded, returned, or named as text that is no document."""
    with contextlib.suppress(Rejected):
        assert isinstance(decode_document(data), bytes)


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
