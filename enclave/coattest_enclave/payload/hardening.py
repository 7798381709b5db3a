"""What this process gives up before it serves: core dumps, tracing, system calls that it never makes, and
the memory of what it has freed.

A program that was taken over has the secrets in any case. This keeps it from starting others, from reading
other processes and from the kernel's larger interfaces. Sources: prctl(2), seccomp(2), mallopt(3),
linux/seccomp.h, linux/audit.h, and the kernel's tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

from coattest_enclave.protocol.errors import EnclaveError

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 4, 22, 38, 2

M_MMAP_THRESHOLD = -3

LARGE = 128 * 1024
"""Bytes of a buffer that goes back to the kernel as soon as it is freed. It is glibc's own value, which rises
to 32 MiB with the buffers that are freed unless it is set: then most of them stay, in an arena per thread.
"""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64."""

X32 = 0x40000000
"""From this number on, calls on x86_64 are of its second table, which has every call once more."""

REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "execve": (59, 221),
    "execveat": (322, 281),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mknodat": (259, 33),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
}
"""Numbers on x86_64 and aarch64; they end with EPERM."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000


def close_process() -> None:
    """Give all of it up, for every thread from now on; raises EnclaveError when the kernel refuses."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise EnclaveError("core dumps cannot be turned off") from error
    if not ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE):
        raise EnclaveError("freed memory does not go back to the kernel")
    program = refusing_filter(os.uname().machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)


def refusing_filter(machine: str) -> bytes:
    """The BPF program for this machine, 8 bytes per instruction; raises EnclaveError."""
    if machine not in ARCHITECTURES:
        raise EnclaveError("there is no list of system calls for this machine")
    numbers = [pair[list(ARCHITECTURES).index(machine)] for pair in REFUSED.values()]
    lines = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_AT_LEAST, len(numbers) + 1, 0, X32),
        *((_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _prctl(option: int, value: int, more: bytes | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), more, ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise EnclaveError(f"the kernel refuses prctl {option}")
