"""Fixtures of the enclave's tests: a KMS endpoint with TLS, a running enclave program, the demo's auction."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_enclave.protocol import wire
from support.enclave.fake_kms import HOST, FakeKms, make_ca, make_leaf
from support.enclave.running_enclave import DEMO, Auction, Enclave, running


@pytest.fixture(scope="session")
def authority() -> Any:
    """The test's TLS authority: certificate and key."""
    return make_ca()


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a name short enough for socket addresses."""
    directory = Path(tempfile.mkdtemp(prefix="enc-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def kms(authority: Any, tmp_path: Path) -> Iterator[FakeKms]:
    """A KMS endpoint with the right certificate."""
    with FakeKms(make_leaf(*authority, HOST, tmp_path)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def shared(authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> Iterator[Enclave]:
    """One program for all tests here: whatever a test does to it must leave it working for the next."""
    directory = Path(tempfile.mkdtemp(prefix="enc-"))
    with FakeKms(make_leaf(*authority, HOST, directory)) as kms, running(authority, directory, kms) as it:
        yield it
    shutil.rmtree(directory)


@pytest.fixture
def program(shared: Enclave) -> Iterator[Enclave]:
    """The program, and afterwards everything around it as it was."""
    shared.kms.requests.clear()
    shared.nsm.asked.clear()
    shared.received.clear()
    shared.proxy.asked.clear()
    yield shared
    shared.kms.tamper = shared.kms.raw = None
    shared.nsm.timestamp = shared.nsm.broken = shared.proxy.cut_after = None
    shared.proxy.refuse = False
    shared.proxy.next_cuts.clear()
    assert shared.process.poll() is None, "the program ended"
    assert shared.converse([wire.Frame(1, "alive", {"nonce": bytes(16)})])[-1].type == "document"


@pytest.fixture
def demo(program: Enclave) -> Auction:
    """The demo's auction."""
    return Auction.make(DEMO).encrypt(program.kms)
