"""What is asked of an enclave on hardware that nobody of us has seen: does it run, attest and keep talking?

Nothing here needs a decision, a key or a bucket, and nothing of it is trusted afterwards: it answers whether
an image works on this instance, not whether its code is the agreed one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from coattest.errors import CoattestError
from coattest_enclave.protocol import messages
from coattest_parent.link.aws import Credentials
from coattest_parent.link.channels import Address
from coattest_parent.link.enclave import EnclaveClient, EnclaveRefused, Part
from coattest_verify.attestation import (
    Expectation,
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    MaxAge,
    Root,
    parse_unverified,
    verify_document,
)

NONCE_SIZE = 32
MAX_AGE_MS = 5 * 60 * 1000
# As many as the enclave serves at a time (coattest_enclave.server.CONNECTIONS_MAX).
CONNECTIONS = 8
ROUNDS = 8
UPLOAD = 32 * 1024 * 1024
BLOCK = 512 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer; ``detail`` is a figure or the reason."""

    name: str
    ok: bool
    detail: str


def smoke(
    address: Address,
    *,
    pcrs: dict[int, bytes],
    root: Root,
    clock: Callable[[], datetime],
    upload: int = UPLOAD,
) -> Iterator[Check]:
    """Ask one thing after another, each with its own time-outs; a check that fails does not end the rest.

    ``pcrs`` are the registers that the image must have, 48 bytes by index; ``upload`` is in bytes.
    """
    yield _check("document", lambda: _document(address, pcrs, root, clock))
    yield _check("clock", lambda: _clock(address, clock))
    yield _check("connections", lambda: _connections(address))
    yield _check("both directions", lambda: _both_directions(address, upload))
    yield _check("still alive", lambda: _document(address, pcrs, root, clock))


def _check(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, True, ask())
    except CoattestError as error:
        return Check(name, False, str(error))


class _Unexpected(CoattestError):
    default_code = "smoke"


def _document(address: Address, pcrs: dict[int, bytes], root: Root, clock: Callable[[], datetime]) -> str:
    nonce = secrets.token_bytes(NONCE_SIZE)
    with EnclaveClient(address) as client:
        document = client.alive(nonce)
    expectations: list[Expectation] = [
        ExpectPcrs(pcrs),
        ExpectNonce(nonce),
        ExpectUserData(messages.alive_user_data()),
        ExpectPublicKey(None),
        MaxAge(MAX_AGE_MS),
    ]
    verdict = verify_document(document, expectations, now=clock(), root=root)
    if not verdict.ok:
        raise _Unexpected("; ".join(f"{finding.where}: {finding.rule}" for finding in verdict.findings))
    return f"{verdict.document.module_id}, registers {', '.join(str(i) for i in sorted(pcrs))} as measured"


def _clock(address: Address, clock: Callable[[], datetime]) -> str:
    """How far the module's clock is from ours; for information, as neither is known to be right."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    with EnclaveClient(address) as client:
        before = clock()
        document = parse_unverified(client.alive(nonce))
    off = document.timestamp_ms - int(before.timestamp() * 1000)
    return f"the module's clock is {off} ms from this machine's"


def _connections(address: Address) -> str:
    """As many connections at a time as the enclave serves, each with several requests."""
    started = time.monotonic()
    failures = _together(CONNECTIONS, lambda: _ask(address, ROUNDS))
    if failures:
        raise _Unexpected(f"{len(failures)} of {CONNECTIONS} connections failed: {failures[0]}")
    rate = CONNECTIONS * ROUNDS / (time.monotonic() - started)
    return f"{CONNECTIONS} connections, {CONNECTIONS * ROUNDS} documents, {rate:.0f} per second"


def _both_directions(address: Address, size: int) -> str:
    """An upload that the enclave must refuse in the end, while documents flow the other way."""
    ended = threading.Event()
    failures: list[CoattestError] = []

    def documents() -> None:
        while not ended.is_set():
            _ask(address, 1)

    talkers = [threading.Thread(target=_collect, args=(documents, failures)) for _ in range(4)]
    started = time.monotonic()
    for talker in talkers:
        talker.start()
    try:
        _refused_upload(address, size)
        seconds = time.monotonic() - started
    finally:
        ended.set()
        for talker in talkers:
            talker.join()
    if failures:
        raise _Unexpected(f"a document was lost meanwhile: {failures[0]}")
    return f"{size / 2**20:.0f} MiB in {seconds:.1f} s, refused as it must be"


def _refused_upload(address: Address, size: int) -> None:
    blocks = (bytes(min(BLOCK, size - start)) for start in range(0, size, BLOCK))
    try:
        with EnclaveClient(address) as client:
            client.open(b"smoke", [Part("smoke", size, blocks)], [], Credentials("", "", ""))
    except EnclaveRefused as refusal:
        if refusal.code == "bad-manifest":
            return
        raise
    raise _Unexpected("the enclave opened an auction without a manifest")


def _ask(address: Address, rounds: int) -> None:
    with EnclaveClient(address) as client:
        for _ in range(rounds):
            client.alive(secrets.token_bytes(NONCE_SIZE))


def _together(count: int, work: Callable[[], None]) -> list[CoattestError]:
    failures: list[CoattestError] = []
    threads = [threading.Thread(target=_collect, args=(work, failures)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def _collect(work: Callable[[], None], failures: list[CoattestError]) -> None:
    try:
        work()
    except CoattestError as error:
        failures.append(error)
