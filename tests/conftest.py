"""What tests of every room share: the images of this checkout, built once per session."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.hooks
import botocore.session
import pytest

from coattest_build import builder
from coattest_build.report import BuildReport
from support.drawing import draw_as_everywhere
from support.only_in import runs_in
from support.sentences import give_sentences, pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]

REPOSITORY = Path(__file__).parents[1]

LONG = (
    "tests/parent/deployment/test_stack_failures.py",
    "tests/parent/deployment/test_stack_killed.py",
    "tests/parent/deployment/test_stack_deploy.py",
    "tests/parent/auction/test_auction_commands.py",
    "tests/verify/keypolicy/prove/",
    "tests/verify/quorum/test_commands.py",
    "tests/parent/deployment/test_deployment.py",
    "tests/parent/link/test_stop.py",
    "tests/faults/",
    "tests/build/test_builder.py",
    "tests/verify/rebuild/test_rebuild_names_the_file.py",
    "tests/parent/auction/",
    "tests/verify/keypolicy/",
)
"""What takes longest begins first: with workers side by side, none is left alone with it at the end.

A file goes to one worker as a whole (``--dist loadfile``), since tests of a module share what is made once.
"""


IMAGE_SECONDS = 2400
"""For a test of an image: without a cache the first one waits until the kernel is compiled."""


def pytest_collection() -> None:
    """Eight thousand tests are collected, and all of them stay: garbage is not looked for meanwhile."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor is it looked for among them later."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, leave slow tests to their environment, and give tests of attacks their sentences."""
    for item in items:
        if item.get_closest_marker("slow") and not runs_in("slow"):
            item.add_marker(pytest.mark.skip(reason="tox -e slow runs it"))
        if item.get_closest_marker("image") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(IMAGE_SECONDS))
    places = {place: number for number, place in enumerate(LONG)}
    items.sort(key=lambda item: min((n for p, n in places.items() if item.nodeid.startswith(p)), default=99))
    give_sentences(items)


draw_as_everywhere()


@dataclass(frozen=True, slots=True)
class BuiltImages:
    """The report of the build and the folder with image.eif and image.local.eif."""

    report: BuildReport
    directory: Path

    def image(self, profile: str) -> Path:
        """The image file of a profile."""
        return self.directory / dict(self.report.profiles)[profile].name


@pytest.fixture(autouse=True, scope="session")
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test writes to the journals, the records and the pinned roots of whoever runs it."""
    os.environ["COATTEST_STATE"] = str(tmp_path_factory.mktemp("state"))
    os.environ["COATTEST_CONFIG"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(autouse=True, scope="session")
def service_models_read_once() -> Iterator[None]:
    """All boto3 sessions share botocore's reader of its service models, which keeps what it has parsed.

    Each session has its own otherwise, and parsing takes longer than most calls of a test. They also share
    the present names of botocore's old events: a new session looks up 128.
    """
    shared = functools.lru_cache(botocore.session.create_loader)
    names: dict[str, str] = {}
    made = botocore.hooks.EventAliaser.__init__

    def sharing(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        assert self._event_aliases == botocore.hooks.EVENT_ALIASES
        self._alias_name_cache = names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", shared)
        patch.setattr(botocore.hooks.EventAliaser, "__init__", sharing)
        yield


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command that a test calls leaves SIGTERM and SIGINT ignored: its process is to end after it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def built_images(tmp_path_factory: pytest.TempPathFactory) -> BuiltImages:
    """Every profile's image, built from this checkout with the user's own cache (minutes without one).

    Once for all workers of pytest-xdist, which share the folder above their own.
    """
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "images"
    with directory.with_suffix(".report").open("a+b") as report:
        fcntl.flock(report, fcntl.LOCK_EX)
        if os.fstat(report.fileno()).st_size == 0:
            directory.mkdir(exist_ok=True)
            pickle.dump(builder.build(REPOSITORY, directory), report)
        report.seek(0)
        return BuiltImages(pickle.load(report), directory)
