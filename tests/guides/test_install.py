"""The README's way to install: from a repository's URL at a commit, into an environment of its own."""

from __future__ import annotations

import functools
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.guides.blocks import INSTALL, ROOT


class _Quiet(SimpleHTTPRequestHandler):
    """A server of files that writes no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def url_at_commit(tmp_path: Path) -> Iterator[str]:
    """``URL@COMMIT`` of this checkout's last commit, served over HTTP on loopback."""
    served = tmp_path / "served"
    git("clone", "--quiet", "--bare", str(ROOT), str(served / "coattest.git"))
    git("-C", str(served / "coattest.git"), "update-server-info")
    handler = functools.partial(_Quiet, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        commit = git("-C", str(ROOT), "rev-parse", "HEAD").strip()
        yield f"http://127.0.0.1:{server.server_port}/coattest.git@{commit}"
        server.shutdown()


def git(*arguments: str) -> str:
    """What git prints; it must succeed."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.timeout(600)
def test_the_readmes_commands_install_what_verifies(tmp_path: Path, url_at_commit: str) -> None:
    """After them the programs are there, and make a member's key."""
    for line in [
        *(line.replace("URL@COMMIT", url_at_commit) for line in INSTALL),
        "coattest-venv/bin/coattest --version",
        "coattest-venv/bin/verify keygen --out member.key",
    ]:
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "member.key.pub").is_file()
