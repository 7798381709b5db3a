"""Documents, measurements and indexes as they lie in files."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_verify.attestation import BadExpectation
from coattest_verify.attestation.files import (
    BadFile,
    decode_document,
    parse_time,
    read_index,
    read_measurements,
)
from support.nitro_ca import PCRS, document

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
    with pytest.raises(BadFile) as caught:
        read_measurements(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("shape", [{}, {"HashAlgorithm": "Sha384"}, {"PCR0": "00" * 48}])
def test_measurements_that_pin_nothing_are_refused(shape: object) -> None:
    """No register, or zeros: the expectation refuses to be made."""
    with pytest.raises(BadExpectation):
        read_measurements(json.dumps(shape))


def test_an_index_is_read() -> None:
    """Name, digest and time (to the end of its second); columns that are not there are None."""
    lines = [
        "filename\tsha256\tdoc_time_utc\tmode\n",
        "a.bin\tff\t2026-01-15T12:00:00+00:00\tprod\n",
        "b.bin\t00\t\n",
    ]
    index = read_index(lines)
    assert index["a.bin"].sha256 == "ff"
    assert index["a.bin"].at == datetime(2026, 1, 15, 12, 0, 0, 999_000, tzinfo=timezone.utc)
    assert index["b.bin"].at is None
    (entry,) = read_index(["filename", "c.bin"]).values()
    assert (entry.sha256, entry.at) == (None, None)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["name\tsha256"],
        ["filename", ""],
        ["filename", "../a.bin"],
        ["filename", "a.bin", "a.bin"],
        ["filename\tdoc_time_utc", "a.bin\tyesterday"],
        ["filename\tdoc_time_utc", "a.bin\t2026-01-15T12:00:00"],
        ["filename"] * 100_001,
    ],
)
def test_an_index_that_does_not_parse_is_refused(lines: list[str]) -> None:
    """No heading, no name, a path, a name twice, a time without its zone."""
    with pytest.raises(BadFile):
        read_index(lines)


def test_times_have_a_zone() -> None:
    """ "Z" and offsets are read on every Python; a time without a zone is refused."""
    noon = datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
    assert parse_time("2026-01-15T12:00:00Z") == parse_time("2026-01-15T13:00:00+01:00") == noon
    assert parse_time("2026-01-15T12:00:00.250Z") - noon == timedelta(milliseconds=250)
    assert parse_time("2026-01-15T13:00:00+01:00").utcoffset() == timedelta(0)
    for text in ("2026-01-15T12:00:00", "2026-01-15", "now", "", "Z", "1768478400"):
        with pytest.raises(BadFile):
            parse_time(text)
