"""Starting the local services: what is missing is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_MOTO = "import sys; sys.modules['moto'] = None; from coattest_local.cli import main; main()"


@pytest.mark.parametrize("verb", ["up", "demo"])
def test_without_moto_a_command_names_the_extra(verb: str, tmp_path: Path) -> None:
    """Exit 3, one line and one document; nothing was started or built."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MOTO, verb, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["code"] == "missing-extra"
    assert "extra 'local'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_account_without_its_digits_is_told_before_anything_starts(tmp_path: Path) -> None:
    """Exit 2 and one line, by the command itself."""
    done = subprocess.run(
        [sys.executable, "-c", "from coattest_local.cli import main; main()", "up", "--account", "buyer=12"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "'buyer=12' is not NAME=ID with 12 digits" in done.stderr
    assert len(done.stderr.splitlines()) == 1
