"""Sets limits for itself and becomes another program: started by ``start``, never imported.

``python -I -S limit.py LIMITS COMMAND..``: LIMITS is a JSON object with ``parent`` (the process that this
one must not outlive), ``cpu`` (seconds), ``memory``, ``file`` (bytes) and ``processes``, the number that may
be added to what the user runs now. Only the standard library. A child that sets its own limits is safe where
threads run; code between fork and exec is not.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def lower(kind: int, value: int) -> None:
    """Set a limit of setrlimit(2), never above the one that holds now."""
    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def tasks() -> int:
    """The processes and threads of this user: RLIMIT_NPROC counts all of them, not this program's own."""
    count, user = 0, os.getuid()
    for entry in Path("/proc").iterdir():
        # A process may end at any moment, and some hosts hide those of others.
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and entry.stat().st_uid == user:
                count += len(list((entry / "task").iterdir()))
    return count


def main() -> None:
    """Set the limits and execute the command."""
    limits, command = json.loads(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != limits["parent"]:  # it ended before the line above
        sys.exit(1)
    lower(resource.RLIMIT_CORE, 0)
    for name, kind in (
        ("cpu", resource.RLIMIT_CPU),
        ("memory", resource.RLIMIT_AS),
        ("file", resource.RLIMIT_FSIZE),
    ):
        lower(kind, limits[name])
    lower(resource.RLIMIT_NPROC, tasks() + limits["processes"])
    os.execv(command[0], command)  # noqa: S606 - the command of start_program, with an absolute path


if __name__ == "__main__":
    main()
