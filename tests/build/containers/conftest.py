"""What tests of commands on container images start with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file for the container image."""
    return tmp_path / "image.tar"
