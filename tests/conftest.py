"""What tests of every room share: the images of this checkout, built once per session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from coattest_build import builder
from coattest_build.report import BuildReport

REPOSITORY = Path(__file__).parents[1]

# How busy the machine is decides no test, and in CI neither does chance: what it says of a change is what it
# says of it tomorrow. `make test` elsewhere draws anew each time.
settings.register_profile(
    "coattest",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("coattest")


@dataclass(frozen=True, slots=True)
class BuiltImages:
    """The report of the build and the folder with image.eif and image.local.eif."""

    report: BuildReport
    directory: Path

    def image(self, profile: str) -> Path:
        """The image file of a profile."""
        return self.directory / self.report.profile(profile).name


@pytest.fixture(autouse=True, scope="session")
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test writes to the journals and records of whoever runs it."""
    os.environ["COATTEST_STATE"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command that a test calls leaves SIGTERM and SIGINT ignored: its process is to end after it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def built_images(tmp_path_factory: pytest.TempPathFactory) -> BuiltImages:
    """Every profile's image, built from this checkout with the user's own cache (minutes without one)."""
    directory = tmp_path_factory.mktemp("images")
    return BuiltImages(builder.build(REPOSITORY, directory), directory)
