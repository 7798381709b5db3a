"""The README's way to install: from a repository's URL at a commit, into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.guides.blocks import INSTALL, ROOT


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


@pytest.mark.timeout(600)
def test_a_clone_on_this_machine_installs_with_any_pip(tmp_path: Path) -> None:
    """The URL alone, with extras, as the README has it: an older pip takes no file URL behind a name."""
    form = "git+file:///PATH@COMMIT#egg=coattest[build]"
    assert form in (ROOT / "README.md").read_text()
    commit = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True).strip()
    url = form.replace("/PATH", str(ROOT)).replace("COMMIT", commit)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    done = subprocess.run(
        [tmp_path / "venv/bin/pip", "install", "--dry-run", "--no-deps", url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would install coattest-" in done.stdout
