"""The decision over one document: bytes, expectations and a time in, a verdict out. No clock, no I/O.

The rules, in this order; all that can be judged are judged, so that a verdict has every reason:

1. The envelope is a COSE_Sign1 of the one known shape (cose.py), the payload strict CBOR (cbor.py), every
   field there and in bounds (payload.py). Otherwise there is nothing to judge further.
2. The chain leads from the pinned root, over certificates that are each fit for their place, to the leaf
   (chain.py).
3. Every certificate is in date at ``now``, the root too, cached or not.
4. The leaf's key made the signature over the payload.
5. The timestamp lies in the leaf's life, and not after ``now``.
6. The enclave does not run in debug mode, and is what the caller expects (expectations.py). That these are
   the bytes that the caller named is judged first: that needs no readable document.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from coattest.errors import require_aware, require_kind
from coattest.findings import Finding
from coattest_verify.attestation.batch import AT_A_TIME, Steps, alone, together
from coattest_verify.attestation.chain import ES384, ChainCache, verify_chain
from coattest_verify.attestation.document import Document
from coattest_verify.attestation.encoding.certificates import Certificate
from coattest_verify.attestation.encoding.cose import CoseSign1, open_envelope
from coattest_verify.attestation.encoding.payload import read_payload
from coattest_verify.attestation.expectations import Demands, Expectation
from coattest_verify.attestation.limits import SIGNATURE_SIZE
from coattest_verify.attestation.root import AWS_NITRO, Root
from coattest_verify.attestation.rules import (
    BAD_SIGNATURE,
    TIMESTAMP_OUTSIDE_LEAF,
    Malformed,
    bad_expectation,
)
from coattest_verify.attestation.verdict import Verdict

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND: Final = timedelta(milliseconds=1)
_HALF: Final = SIGNATURE_SIZE // 2


def parse_unverified(document: bytes) -> Document:
    """The fields of a document that NOTHING vouches for: anyone could have written it.

    For looking at documents and for finding out when one was made. Raises Malformed with every problem of
    its shape.
    """
    return read_payload(open_envelope(_bytes(document)).payload).document


def verify_document(
    document: bytes,
    expectations: Sequence[Expectation],
    *,
    now: datetime,
    root: Root = AWS_NITRO,
    cache: ChainCache | None = None,
    strict: bool = False,
) -> Verdict:
    """Whether a document is genuine at ``now`` and meets the expectations; never raises for its content.

    ``now`` is an aware datetime. ``cache`` remembers verified chains over calls. ``strict`` turns notices
    (unknown fields, and fields that real documents have outside the specification) into findings. Raises
    UsageError when the expectations pin no code (``empty-expectations``) or an argument makes no sense
    (``bad-expectation``).
    """
    demands = Demands.of(expectations)
    return alone(verify_under(demands, document, now=now, root=root, cache=cache, strict=strict))


def verify_many(
    documents: Iterable[bytes],
    expectations: Sequence[Expectation],
    *,
    now: datetime,
    root: Root = AWS_NITRO,
    cache: ChainCache | None = None,
    strict: bool = False,
    threads: int | None = None,
) -> list[Verdict]:
    """One verdict per document, in the same order, all at the same ``now``; the arguments are
    verify_document's.

    ``threads`` is the number of processors unless given: cryptography releases the interpreter lock while it
    verifies. A cache is made for the batch when none is given. Raises what verify_document raises, for the
    expectations before any document is looked at.
    """
    demands = Demands.of(expectations)
    workers = os.cpu_count() or 1 if threads is None else threads
    if type(workers) is not int or workers < 1:
        raise bad_expectation("at least one thread", where="threads")
    require_kind(documents, Iterable, "documents", hint="an iterable of bytes")
    if isinstance(documents, (bytes, bytearray, memoryview, str)):
        raise bad_expectation("is one document", where="documents", hint="[document]")
    shared, whole = ChainCache() if cache is None else cache, list(documents)

    def verify(start: int) -> list[Verdict]:
        return together(
            verify_under(demands, document, now=now, root=root, cache=shared, strict=strict)
            for document in whole[start : start + AT_A_TIME]
        )

    with ThreadPoolExecutor(workers, thread_name_prefix="attestation") as pool:
        parts = pool.map(verify, range(0, len(whole), AT_A_TIME))
        return list(itertools.chain.from_iterable(parts))


def verify_under(
    demands: Demands,
    document: bytes,
    *,
    now: datetime,
    root: Root,
    cache: ChainCache | None,
    strict: bool,
) -> Steps[Verdict]:
    """verify_document with expectations that were checked already: for many documents under the same ones.

    Its steps are reading, the chain's signatures, the document's signature, and the rest. Raises UsageError
    for a time without a zone and a missing root; a document only gives findings.
    """
    require_aware(now)
    require_kind(root, Root, "root")
    if cache is not None:
        require_kind(cache, ChainCache, "cache")
    document = _bytes(document)
    findings = [found for each in demands.documents for found in each.findings(document)]
    try:
        envelope = open_envelope(document)
        payload = read_payload(envelope.payload)
    except Malformed as malformed:
        return Verdict((*findings, *malformed.findings), (), root, now, None, None)
    claimed = payload.document
    chain = yield from verify_chain(claimed.certificate, claimed.cabundle, root, cache)
    findings += chain.findings
    findings += chain.date_findings(now)
    yield
    if chain.leaf is not None:
        findings += _signature_findings(envelope, claimed, chain.leaf)
    yield
    findings += demands.findings(claimed, (now - _EPOCH) // _MILLISECOND)
    if strict:
        findings += payload.notices
    return Verdict(
        tuple(findings),
        payload.notices,
        root,
        now,
        None if chain.findings else chain.not_after,
        None if findings else claimed,
    )


def _signature_findings(envelope: CoseSign1, document: Document, leaf: Certificate) -> list[Finding]:
    """The document's signature with the leaf's key, and its timestamp against the leaf's life."""
    findings = []
    r = int.from_bytes(envelope.signature[:_HALF], "big")
    s = int.from_bytes(envelope.signature[_HALF:], "big")
    try:
        leaf.key.verify(encode_dss_signature(r, s), envelope.signed, ES384)
    except (InvalidSignature, ValueError):
        findings.append(
            BAD_SIGNATURE.finding("signature", "one by the key of certificate", "none that verifies")
        )
    if not leaf.not_before <= document.timestamp <= leaf.not_after:
        first = (leaf.not_before - _EPOCH) // _MILLISECOND
        last = (leaf.not_after - _EPOCH) // _MILLISECOND
        found = f"{document.timestamp_ms} ms"
        findings.append(TIMESTAMP_OUTSIDE_LEAF.finding("timestamp", f"{first} to {last} ms", found))
    return findings


def _bytes(document: object) -> bytes:
    """``document`` as bytes. Raises UsageError for anything else."""
    if isinstance(document, bytes):
        return document
    if isinstance(document, (bytearray, memoryview)):
        return bytes(document)
    raise bad_expectation(f"a document is bytes, not {type(document).__name__}", where="document")
