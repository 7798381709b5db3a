"""A large auction's memory: every command's peak grows so slowly that a million lots stay within 512 MB.

What is compared are peaks of resident memory (VmHWM) at two sizes, in processes of their own: no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coattest_local.aws import services
from support.auction.big_auction import BigAuction, accounts_of, agreed, decrypts, high_water, names_of
from support.local.local_enclave import Cloud, enclave
from support.only_in import only_in

only_in("faults")

SMALL, LARGE, GOAL_LOTS = 1_000, 100_000, 1_000_000
BUYERS = 10
GOAL = 512_000_000
"""Bytes at GOAL_LOTS (docs/benchmarks.md, "The auction")."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peaks by command at both sizes, in bytes."""

    small: dict[str, int]
    large: dict[str, int]
    calls: int
    """KMS's Decrypt calls in the large opening."""


def peaks_of(auction: BigAuction, address: str, pid: int) -> dict[str, int]:
    """Every command that a large auction needs, once; and the enclave that opened it."""
    auction.seal(auction.bid())
    found = {
        "bid": auction.make_bid("--json").memory,
        "seal": auction.make_seal("--json").memory,
        "open": auction.open(address, "result.cbor", "--json").memory,
        "receipt": auction.receipt("result.cbor").memory,
        "receipt --json": auction.receipt("result.cbor", "--json").memory,
        "receipt --html": auction.receipt("result.cbor", "--html", "page.html").memory,
        "enclave": high_water(Path(f"/proc/{pid}/status")),
    }
    assert (auction.folder / "page.html").exists()
    return found


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peaks]:
    """A small auction, then a large one, by the same buyers on the same services and enclave."""
    names = names_of(BUYERS)
    folder = tmp_path_factory.mktemp("scale")
    with (
        services.start(folder / "aws", accounts=accounts_of(names), quiet=True) as running,
        enclave() as program,
    ):
        cloud = Cloud.make(running, names)
        members, decided = agreed(folder / "quorum", names)
        found = []
        for lots in (SMALL, LARGE):
            before = decrypts(running.trail)
            auction = BigAuction(folder / str(lots), cloud, members, decided, lots)
            found.append(peaks_of(auction, program.address, program.process.pid))
        yield Peaks(*found, decrypts(running.trail) - before)


@pytest.mark.parametrize(
    "command", ["enclave", "open", "bid", "seal", "receipt", "receipt --json", "receipt --html"]
)
def test_a_million_lots_would_stay_within_the_goal(peaks: Peaks, command: str) -> None:
    """What 99,000 more lots cost, a hundred thousand at a time, leads to less than 512 MB."""
    small, large = peaks.small[command], peaks.large[command]
    per_lot = max(large - small, 0) / (LARGE - SMALL)
    assert small > 10_000_000
    assert small + per_lot * (GOAL_LOTS - SMALL) < GOAL, f"{small} bytes and {per_lot:.0f} per lot"


def test_kms_is_asked_once_per_buyer(peaks: Peaks) -> None:
    """However many lots there are."""
    assert peaks.calls == BUYERS
