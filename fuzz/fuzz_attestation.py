"""Coverage-guided fuzzing of the attestation verifier with atheris: one error type, no pass.

    python fuzz/fuzz_attestation.py [--seconds 300] [CORPUS]

Entries take turns by the first byte of the input: arbitrary bytes as a document; as the payload or as a
certificate of a document whose signature is right, so that everything behind the signature is reached; and as
CBOR, compared with cbor2. Needs atheris (Linux; CPython 3.11 to 3.13 at the time of writing).
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("common", "verify", "tests")]

import atheris

with atheris.instrument_imports(include=["coattest_verify"]):
    from coattest.errors import Rejected
    from coattest_verify.attestation import (
        ChainCache,
        Malformed,
        UnsafeAllowDebug,
        UnsafeAnyMeasurement,
        files,
        parse_unverified,
    )
    from coattest_verify.attestation.encoding import cbor

import cbor2
from libfuzzer import fuzz

from support.verify.nitro_ca import cbor as encode
from support.verify.nitro_ca import check, document, envelope, fields, sign, usual_chain

ANY = (UnsafeAnyMeasurement(), UnsafeAllowDebug())
CACHE = ChainCache()
VALID = document()
SPELLINGS = (VALID, b"\xd2" + VALID)


def one(data: bytes) -> None:
    """One input: any exception but the documented one, and any pass of changed bytes, is a finding."""
    kind, body = data[:1], data[1:]
    if kind < b"\x40":
        with contextlib.suppress(Rejected):
            _document(files.decode_document(body))
    elif kind < b"\x80":
        check(envelope(body[:16_384], sign(body[:16_384], usual_chain().key)), *ANY, cache=CACHE)
    elif kind < b"\xa0":
        check(document(certificate=body[:1024] or b"\x00"), *ANY, cache=CACHE)
    elif kind < b"\xc0":
        bundle = usual_chain().cabundle
        bundle[len(body) % len(bundle)] = body[:1024] or b"\x00"
        check(document(cabundle=bundle), *ANY, cache=CACHE)
    else:
        _cbor(body)


def _document(data: bytes) -> None:
    if check(data, *ANY, cache=CACHE).ok and data not in SPELLINGS:
        raise AssertionError("a changed document passed")
    with contextlib.suppress(Malformed):
        parse_unverified(data)


def _cbor(data: bytes) -> None:
    try:
        value = cbor.decode_cbor(data)
    except cbor.CborError:
        return
    if repr(value) != repr(cbor2.loads(data)):
        raise AssertionError("cbor2 reads it otherwise")


def main() -> None:
    """Seeds: one for each turn, and a document in hex."""
    seeds = {
        "document": b"\x00" + VALID,
        "hex": b"\x00" + VALID.hex().encode(),
        "payload": b"\x40" + encode(fields()),
        "leaf": b"\x80" + usual_chain().certificate,
        "ca": b"\xa0" + usual_chain().cabundle[2],
        "cbor": b"\xc0" + encode({"a": [1, -1, b"x", "y", None, {0: True}]}),
    }
    fuzz(one, seeds, __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
