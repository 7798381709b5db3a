"""Does an image work on this machine's hardware: does it run, attest, and keep talking under load?

This needs no decision, no key and no bucket, and trusts nothing that the enclave says. It tells whether an
image works on this instance, not whether its code is the decided one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest_parent.deployment.live import ASKED_MAX_AGE_MS
from coattest_parent.link.channels import Address
from coattest_parent.link.enclave import NONCE_SIZE, EnclaveClient, live_document
from coattest_verify.attestation import (
    ExpectNonce,
    ExpectPcrs,
    MaxAge,
    Root,
    parse_unverified,
    verify_document,
)
from coattest_verify.fleet.hardware import CHECKS, SmokeCheck
from coattest_verify.fleet.live import alive_expectations

CONNECTIONS = 8
"""Connections at a time: as many as the enclave serves (coattest_enclave.payload.server.CONNECTIONS_MAX)."""

ROUNDS = 8
"""Requests on each of these connections."""

TALKERS = 4
"""Threads that ask for documents while the upload goes on."""

Upload = Callable[[Address], int]
"""Sends an enclave what its program must refuse in the end; returns the bytes sent. Raises CoattestError when
it is not refused, or the connection breaks.
"""

Document = tuple[bytes, bytes]
"""A nonce, and the document over it."""


def smoke(
    address: Address,
    *,
    pcrs: dict[int, bytes],
    root: Root,
    clock: Callable[[], datetime],
    upload: Upload,
    skew_ms: int = 0,
) -> Iterator[SmokeCheck]:
    """Run the checks one after another, each with its own time-outs; one that fails does not end the rest.

    ``pcrs`` are the registers that the image must have, 48 bytes by index; ``skew_ms`` is how far ahead of
    ``clock`` a document's time may be. ``upload`` knows a message of the program in the image.
    """
    kept: list[Document] = []

    def document() -> str:
        nonce, found = _asked(address, kept)
        age = MaxAge(ASKED_MAX_AGE_MS, skew_ms=skew_ms)
        expected = [ExpectPcrs(pcrs), ExpectNonce(nonce), *alive_expectations(), age]
        verdict = verify_document(found, expected, now=clock(), root=root)
        if not verdict.ok:
            findings = verdict.findings
            raise FoundFalse("; ".join(map(str, findings)), code="live-document", findings=findings)
        return f"{verdict.document.module_id}, registers {', '.join(map(str, sorted(pcrs)))} as measured"

    asks: tuple[Callable[[], str], ...] = (
        document,
        lambda: _clock(address, clock, kept),
        lambda: _connections(address),
        lambda: _both_directions(address, upload),
        document,
    )
    for name, ask in zip(CHECKS, asks, strict=True):
        started, found = time.monotonic(), ""
        try:
            found, ok = ask(), True
        except CoattestError as error:
            found, ok = str(error), False
        ms = round(1000 * (time.monotonic() - started))
        yield SmokeCheck(name, ok, found, ms, tuple(kept))
        kept.clear()


def _asked(address: Address, kept: list[Document]) -> Document:
    """A document over a fresh nonce, which is kept whatever it is worth."""
    kept.append(live_document(address))
    return kept[-1]


def _clock(address: Address, clock: Callable[[], datetime], kept: list[Document]) -> str:
    """How far the module's clock is from ours; for information, as neither is known to be right."""
    before = clock()
    document = parse_unverified(_asked(address, kept)[1])
    off = document.timestamp_ms - int(before.timestamp() * 1000)
    return f"the module's clock is {off} ms from this machine's"


def _connections(address: Address) -> str:
    """As many connections at a time as the enclave serves, each with several requests."""
    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asked = [pool.submit(_ask, address, ROUNDS) for _ in range(CONNECTIONS)]
    if failures := [each.exception() for each in asked if each.exception()]:
        what = f"{len(failures)} of {CONNECTIONS} connections failed: {failures[0]}"
        raise EnvironmentFailure(what, code="smoke")
    rate = CONNECTIONS * ROUNDS / (time.monotonic() - started)
    return f"{CONNECTIONS} connections, {CONNECTIONS * ROUNDS} documents, {rate:.0f} per second"


def _both_directions(address: Address, upload: Upload) -> str:
    """An upload that the enclave must refuse in the end, while documents flow the other way."""
    ended = threading.Event()

    def documents() -> None:
        while not ended.is_set():
            _ask(address, 1)

    started = time.monotonic()
    with ThreadPoolExecutor(TALKERS) as pool:
        talkers = [pool.submit(documents) for _ in range(TALKERS)]
        try:
            size = upload(address)
            seconds = time.monotonic() - started
        finally:
            ended.set()
    if failures := [each.exception() for each in talkers if each.exception()]:
        raise EnvironmentFailure(f"a document was lost during the upload: {failures[0]}", code="smoke")
    return f"{size / 2**20:.0f} MiB in {seconds:.1f} s, refused as it must be"


def _ask(address: Address, rounds: int) -> None:
    with EnclaveClient(address) as client:
        for _ in range(rounds):
            client.alive(secrets.token_bytes(NONCE_SIZE))
