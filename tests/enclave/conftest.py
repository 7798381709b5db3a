"""Fixtures of the enclave's tests: a KMS endpoint with TLS, a running enclave program, the demo's auction."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_kms import HOST, FakeKms, make_ca, make_leaf
from support.running_enclave import Auction, Enclave, running


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


@pytest.fixture
def enclave(authority: Any, sockets: Path, kms: FakeKms) -> Iterator[Enclave]:
    """A running enclave program."""
    with running(authority, sockets, kms) as it:
        yield it


@pytest.fixture
def demo_auction(kms: FakeKms) -> Auction:
    """The demo's auction: buyer-2, buyer-1, tie."""
    amounts = {"buyer-1": [100000, 200000, 150000], "buyer-2": [120000, 180000, 150000]}
    return Auction.make(amounts).encrypt(kms)
