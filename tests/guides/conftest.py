"""The tutorials install, build and wait for a closing time: run only when COATTEST_RUN names them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.guides.blocks import blocks_of
from support.guides.parties import Example, repository
from support.only_in import runs_in

LONG = ("test_guides.py", "test_install.py", "test_own_enclave.py", "test_results.py")
collect_ignore = [] if runs_in("guides") else [*LONG]

SEALED = 8
"""The tutorials' step after which an auction waits for its closing time."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL and the commit of this checkout's HEAD, over HTTP."""
    with repository(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory, source: tuple[str, str]) -> Iterator[Example]:
    """A person who has typed both tutorials up to the buyers' seals. What is left running is ended."""
    made = Example(tmp_path_factory.mktemp("home"), *source)
    try:
        made.tutorials(1, SEALED)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def summer(example: Example) -> Example:
    """The same, who has typed docs/auction.md up to its seals too."""
    for block in blocks_of("docs/auction.md"):
        if "auction open" in block.commands[0].text:
            return example
        example.type(block)
    raise AssertionError("docs/auction.md opens no auction")
