"""Every guide, typed word for word by a person who has a clone and nothing else, up to the auctions' seals.

The auctions close ten minutes after they were announced, as the pages say: test_results.py, which comes after
the other long tests of this folder, goes on from there.
"""

from __future__ import annotations

import os
import shutil

import pytest

from support.guides.blocks import PAGES as EVERY_PAGE
from support.guides.blocks import blocks_of
from support.guides.parties import TUTORIALS, Example, Quorum, checkout

OWN_TESTS = {"docs/your-own-enclave.md", "docs/start-an-enclave.md", "docs/ci.md"}
"""Pages of other parties: test_own_enclave.py and test_ci.py run them."""

RESULTS = {"docs/auction.md", "docs/operations.md"}
"""Pages that open an auction: test_results.py ends them."""

PAGES = [
    page
    for page in EVERY_PAGE
    if page not in {*TUTORIALS, *OWN_TESTS, *RESULTS}
    and any(block.marker is None for block in blocks_of(page))
]


def test_steps_are_one_sequence() -> None:
    """No step is missing between the two tutorials, none is in both, and every block is in one."""
    owners: dict[int, set[str]] = {}
    steps = [block for page in TUTORIALS for block in blocks_of(page)]
    for block in sorted(steps, key=lambda each: each.step):
        assert block.marker is None
        assert (block.step == 0) == (block.who == "you")
        owners.setdefault(block.step, set()).add(block.page)
    assert list(owners) == list(range(len(owners)))
    assert all(len(pages) == 1 for pages in owners.values())


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_both_tutorials_run_up_to_the_seals(example: Example) -> None:
    """Each buyer has sealed; the closing time has not passed, and the enclave waits."""
    assert {path.name for path in example.shared.glob("*.seal")} == {"buyer-1.seal", "buyer-2.seal"}
    assert example.variable("service", "ENCLAVE").startswith("unix:")


@pytest.mark.image
@pytest.mark.timeout(600)
def test_the_auction_page_runs_up_to_the_seals(summer: Example) -> None:
    """An auction of its own, under keys of its own."""
    assert (summer.shared / "summer" / "buyer-2.seal").exists()


@pytest.mark.image
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_as_it_stands(example: Example, name: str) -> None:
    """Every block by whom it names, in the terminals in which the tutorials were typed."""
    blocks = [block for block in blocks_of(name) if block.marker is None]
    if name == "docs/quorum.md":
        quorum = Quorum(example)
        try:
            for block in blocks:
                quorum.type(block)
        finally:
            quorum.close()
    elif all(block.who == "checkout" for block in blocks):
        if name == "docs/commands.md" and shutil.which("man") is None and not os.environ.get("CI"):
            pytest.skip("man is not installed")
        with checkout(example) as terminal:
            for block in blocks:
                example.type_in(terminal, block)
    else:
        for block in blocks:
            example.type(block)
