"""How Hypothesis draws, wherever tests/conftest.py is read (the matrix names a profile itself)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def draw_as_everywhere() -> None:
    """Load the settings of every test here.

    How busy the machine is decides no test, and in CI neither does chance: what it says of a change is what
    it says of it tomorrow. `make test` elsewhere draws anew each time.
    """
    settings.register_profile(
        "coattest",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=os.environ.get("CI") == "true",
    )
    settings.load_profile("coattest")
