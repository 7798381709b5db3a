"""What the program gives up before it serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coattest_enclave.payload import clock, hardening
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.protocol.errors import EnclaveError
from support.enclave.fake_nsm import FakeNsm
from support.enclave.running_enclave import Enclave

INSIDE = """
import ctypes, os, resource, threading
from coattest_enclave.payload import hardening
hardening.close_process()
libc = ctypes.CDLL(None, use_errno=True)
column = list(hardening.ARCHITECTURES).index(os.uname().machine)
def call(name):
    ctypes.set_errno(0)
    number = ctypes.c_long(hardening.REFUSED[name][column])
    return libc.syscall(number, *[ctypes.c_long(-1)] * 5), ctypes.get_errno()
print({call(name) for name in hardening.REFUSED})
found = []
thread = threading.Thread(target=lambda: found.append(call("ptrace")))
thread.start()
thread.join()
print(found)
print(resource.getrlimit(resource.RLIMIT_CORE), libc.prctl(3, 0, 0, 0, 0))
print(len(open("/proc/self/status").read()) > 0, os.path.exists("/"))
try:
    os.posix_spawn("/bin/true", ["true"], {})
except PermissionError:
    print("no program")
"""


def test_a_closed_process_starts_and_reads_no_other() -> None:
    """Every call of the list ends with EPERM, in every thread, and the rest goes on."""
    done = subprocess.run([sys.executable, "-c", INSIDE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{(-1, 1)}", "[(-1, 1)]", "(0, 0) 0", "True True", "no program"]


def test_the_program_is_closed_when_it_serves(program: Enclave) -> None:
    """The running program has a filter, gains no privileges and writes no core dump."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines()
    )
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    limits = Path(f"/proc/{program.process.pid}/limits")
    if os.access(limits, os.R_OK):
        core = next(line for line in limits.read_text().splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


FREED = """
import threading
from pathlib import Path
from coattest_enclave.payload import hardening
hardening.close_process()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def work():
    del [bytearray(30_000_000)][:]  # from here on glibc would take all of them from the thread's arena
    files, left = [], []
    for _ in range(20):
        files.append(bytearray(4_000_000))
        left.append(bytearray(100_000))
    full = resident()
    files.clear()
    print(full - before > 80_000_000, resident() - before < 20_000_000)
before = resident()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_a_freed_file_leaves_the_process() -> None:
    """Also when small buffers that stay lie between the files, and in a thread."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("machine", hardening.ARCHITECTURES)
def test_a_filter_is_whole(machine: str) -> None:
    """Each number once, jumps within the program, and other architectures are killed."""
    program = hardening.refusing_filter(machine)
    lines = [program[start : start + 8] for start in range(0, len(program), 8)]
    assert len(program) % 8 == 0
    for index, line in enumerate(lines):
        assert index + 1 + max(line[2], line[3]) < len(lines) or line[0] == 0x06
    column = list(hardening.ARCHITECTURES).index(machine)
    assert len({pair[column] for pair in hardening.REFUSED.values()}) == len(hardening.REFUSED)


def test_another_machine_has_no_filter() -> None:
    """A list of numbers for one machine means other calls on another."""
    with pytest.raises(EnclaveError, match="this machine"):
        hardening.refusing_filter("riscv64")


def test_a_clock_that_cannot_be_set_is_an_error(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL judges certificates by the system's clock: without it nothing starts and nothing is opened."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(clock.time, "clock_settime", refuse)
    with FakeNsm(sockets / "nsm.sock"):
        client = Nsm(f"unix:{sockets}/nsm.sock")
        assert clock.Clock.read(client, set_system=False).anchor_ms > 0
        with pytest.raises(EnclaveError, match="clock cannot be set") as caught:
            clock.Clock.read(client, set_system=True)
    assert caught.value.code == "clock"
