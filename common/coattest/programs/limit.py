"""Runs a program under limits, and ends all that it started: used by ``start``, never imported.

``python -I -S limit.py LIMITS COMMAND..``: LIMITS is a JSON object with ``parent`` (the process that this
one must not outlive), ``cpu`` (seconds), ``memory``, ``file`` (bytes) and ``processes``, the number that may
be added to what the user runs now. Only the standard library. SIGTERM ends the program. It ends as the
program did: with its exit code, or by its signal.

What the program leaves behind becomes a child of this process, also out of a session of its own
(PR_SET_CHILD_SUBREAPER), and is killed.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
END_SECONDS = 20
"""For killing what is left: it may start more meanwhile."""
WATCHED = {signal.SIGTERM, signal.SIGCHLD}


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


def bound_to(parent: int, number: signal.Signals) -> None:
    """Get a signal when the parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def become(command: list[str], limits: dict[str, int], supervisor: int) -> None:
    """Set the limits and execute the command, in a session of its own. A child that does it is safe to fork:
    there are no threads here.
    """
    os.setsid()
    bound_to(supervisor, signal.SIGKILL)
    lower(resource.RLIMIT_CORE, 0)
    for name, kind in (
        ("cpu", resource.RLIMIT_CPU),
        ("memory", resource.RLIMIT_AS),
        ("file", resource.RLIMIT_FSIZE),
        ("processes", resource.RLIMIT_NPROC),
    ):
        lower(kind, limits[name])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    os.execv(command[0], command)  # noqa: S606 - the command of start_program, with an absolute path


def status_of(child: int) -> int | None:
    """How the child ended, as waitpid(2) says; None when SIGTERM came first."""
    while signal.sigwait(WATCHED) != signal.SIGTERM:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    return ended[1]
    return None


def descendants() -> list[int]:
    """The numbers of all processes below this one (proc_pid_stat(5))."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, pending = [], [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def end_all() -> None:
    """Kill every descendant, until there is none."""
    ends = time.monotonic() + END_SECONDS
    while time.monotonic() < ends:
        for process in descendants():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def main() -> None:
    """Run the command, end what it leaves, and end as it did."""
    limits, command = json.loads(sys.argv[1]), sys.argv[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    bound_to(limits["parent"], signal.SIGTERM)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    limits["processes"] += tasks() + 1  # this one is counted already, the command is not
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            become(command, limits, supervisor)
        except OSError as error:
            sys.stderr.write(f"{command[0]}: {error.strerror}\n")
            sys.stderr.flush()
        os._exit(126)
    status = status_of(child)
    end_all()
    if status is None:
        os._exit(1)
    if os.WIFSIGNALED(status):
        lower(resource.RLIMIT_CORE, 0)
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(supervisor, number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
