"""A buyer's and the service's processes are closed against others of the same user."""

from __future__ import annotations

import subprocess
import sys

INSIDE = """
import ctypes, resource, sys
from click.testing import CliRunner
from coattest_parent.cli.auction import cli
found = []
@cli.command("look")
def look():
    found.append((resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)))
CliRunner().invoke(cli, ["look"], catch_exceptions=False)
print(found)
"""


def test_the_auctions_commands_write_no_core_dump_and_are_not_traced() -> None:
    """Before any of them runs, core dumps are off and the process is not dumpable, which ptrace asks for."""
    done = subprocess.run([sys.executable, "-c", INSIDE], capture_output=True, text=True, check=True)
    assert done.stdout == "[(0, 0)]\n"
