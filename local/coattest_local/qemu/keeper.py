"""Runs one command and ends it when the process that asked for it ends, however that one ends.

Started as a program (``python -I -S keeper.py PARENT COMMAND..``), never imported: only the standard
library. QEMU and vhost-device-vsock outlive their parent otherwise.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def follow_parent(keeper: int) -> None:
    """In the child: die when the keeper dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:  # it died before the line above
        os._exit(1)


def main() -> int:
    """Run the command; returns its exit code, or 128 + n when signal n ended it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # Before the child is there, so that at any moment SIGTERM ends it and this process says how it ended.
    # The byte is written at once, in C; a handler of Python's would wait for a select that has just begun.
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watched = os.pidfd_open(parent)
    if os.getppid() != parent:
        return 1
    keeper = os.getpid()
    # This process has one thread, so running Python between fork and exec is safe.
    child = subprocess.Popen(command, preexec_fn=lambda: follow_parent(keeper))  # noqa: PLW1509
    ended = os.pidfd_open(child.pid)
    while not select.select([ended, watched, told], [], [])[0]:
        pass
    if child.poll() is None:
        child.kill()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
