"""The README's way to install: from a repository's URL at a commit, into an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.guides.blocks import INSTALL


@pytest.mark.timeout(600)
def test_the_readmes_commands_install_what_verifies(tmp_path: Path, source: tuple[str, str]) -> None:
    """After them the programs are there, and make a member's key."""
    for line in [
        *(line.replace("URL@COMMIT", "@".join(source)) for line in INSTALL),
        "coattest-venv/bin/coattest --version",
        "coattest-venv/bin/verify keygen --out member.key",
    ]:
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "member.key.pub").is_file()
