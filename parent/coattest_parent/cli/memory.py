"""A process that holds amounts, keys or credentials leaves no core dump and is read by no other."""

from __future__ import annotations

import ctypes
import resource
import sys

PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """No core dumps, and on Linux no ptrace and no /proc/PID/mem for other processes of the same user
    (prctl(2), PR_SET_DUMPABLE; ptrace(2)). Programs that this one starts are not concerned.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), *[ctypes.c_ulong(0)] * 3)
