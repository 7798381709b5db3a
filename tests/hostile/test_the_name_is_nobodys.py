"""The name coattest is free on the package index: nothing tells anybody to install it by its name alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest.extras import EXTRAS, missing_extra

ROOT = Path(__file__).parents[2]

BY_NAME = re.compile(
    r"(?:pipx?|uv)\b[^\n]*\b(?:install|run|add|download|inject)\b[^\n]*?(?<![\w./-])coattest(?:\[[^\]]*\])?(?![\w./-])"
    r"(?!\s*(?:\[[^\]]*\])?\s+@\s)"
)
"""An installer, and the name without ``@ URL`` after it."""


def files() -> list[Path]:
    """Every text file of the project."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no repository here")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_page_and_no_hint_installs_by_name() -> None:
    """Over pages, source, scripts and configuration."""
    found = []
    for path in files():
        if path.is_file() and path != Path(__file__):
            text = path.read_bytes().decode("utf-8", "replace")
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in BY_NAME.finditer(text)]
    assert found == []


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_a_missing_extra_says_where_from(extra: str) -> None:
    """From where this one came, not from an index."""
    failure = missing_extra(ModuleNotFoundError("x", name=EXTRAS[extra][0]))
    assert isinstance(failure, EnvironmentFailure)
    assert "the same URL and commit" in str(failure)
    assert not BY_NAME.search(str(failure))


def test_the_search_notices_the_name() -> None:
    """In the forms that people write."""
    for line in (
        "pip install coattest",
        "pip install 'coattest[build]'",
        "python -m pip install --quiet coattest",
        "pipx install coattest",
        "uv pip install 'coattest[aws,build]' rich",
    ):
        assert BY_NAME.search(line), line
    for line in (
        "pip install 'coattest @ git+URL@COMMIT'",
        "pip install 'coattest[build] @ git+URL@COMMIT'",
        "coattest-venv/bin/pip install .",
        "pip install --find-links wheels coattest-0.1.0.whl",
    ):
        assert not BY_NAME.search(line), line
