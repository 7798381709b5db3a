"""`verify rebuild --source DIR` on a tree full of files that wait to be run: none is, outside the sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.build.checkouts import commit, make_checkout

pytestmark = pytest.mark.image

PYTHON_TRAPS = (
    "sitecustomize.py",
    "usercustomize.py",
    "conftest.py",
    "click.py",
    "json.py",
    "coattest_build/__init__.py",
    "build/__init__.py",
    "build/coattest_build/__init__.py",
    "verify/coattest_verify/__init__.py",
    "enclave/sitecustomize.py",
    "enclave/coattest_enclave/__init__.py",
    "enclave/coattest_enclave/sitecustomize.py",
)
"""What an interpreter started here, or one that imports from the tree, would take."""

SHELL_TRAPS = (
    "make",
    "git",
    "gcc",
    "sh",
    "tar",
    "bwrap",
    "gpgv",
    "Makefile",
    "build/kernel/Makefile",
    "build/init/Makefile",
)
"""What a search for programs that begins in the tree would take."""


def test_nothing_of_the_tree_is_run_outside_the_sandbox(tmp_path: Path) -> None:
    """The command runs to its verdict in that tree, and no trap has left its mark on the host."""
    mark = tmp_path / "was-run"
    checkout = make_checkout(tmp_path / "checkout")
    script = f"#!/bin/sh\ntouch {mark}\n"
    for name in PYTHON_TRAPS:
        trap = checkout / name
        trap.parent.mkdir(parents=True, exist_ok=True)
        trap.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    for name in SHELL_TRAPS:
        trap = checkout / name
        trap.parent.mkdir(parents=True, exist_ok=True)
        trap.write_text(script)
        trap.chmod(0o755)
    commit(checkout)
    with (checkout / ".git/config").open("a") as config:
        config.write(f"[core]\n fsmonitor = {checkout}/sh\n hooksPath = {checkout}\n pager = {checkout}/sh\n")
    command = "import sys; sys.path.remove(''); from coattest_verify.cli import main; main()"
    arguments = ["rebuild", "--source", ".", "--out", str(tmp_path / "out"), "--profile", "aws", "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr  # it was rebuilt, and is another source than the claimed one
    assert (tmp_path / "out/image.eif").exists()
    assert not mark.exists()
    for trap in ([sys.executable, "sitecustomize.py"], ["./sh"]):  # they would have left it
        subprocess.run(trap, cwd=checkout, check=True)
        assert mark.exists()
        mark.unlink()
