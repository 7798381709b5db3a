"""What an image's kernel lacks that this host's has: the software host refuses it as that kernel would.

A table of options of Linux with what they add; what a kernel profile's fragment leaves out is lacking. It is
about programs that run here and not on Nitro, and it protects nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coattest_build.image import MINIMAL
from coattest_build.kernel import parse_config
from coattest_build.sandbox import Lack
from coattest_build.starts import FRAGMENT, kernel_parts


@dataclass(frozen=True, slots=True)
class _Calls:
    """The system calls of an option: first numbers and counts on x86_64 and aarch64 (asm/unistd.h)."""

    what: str
    x86_64: Sequence[tuple[int, int]]
    aarch64: Sequence[tuple[int, int]]


FAMILIES: Mapping[str, tuple[str, int]] = {
    "INET": ("TCP/IP", 2),
    "IPV6": ("IPv6", 10),
    "NET_KEY": ("sockets of IPsec", 15),
    "PACKET": ("packet sockets", 17),
    "CRYPTO_USER_API": ("sockets of the kernel's cryptography", 38),
    "XDP_SOCKETS": ("XDP sockets", 44),
}
"""Address families (linux/socket.h) by the option that they need. Unix, netlink and vsock are there."""

CALLS: Mapping[str, _Calls] = {
    "SYSVIPC": _Calls(
        "System V shared memory, semaphores and queues",
        [(29, 3), (64, 8), (220, 1)],
        [(186, 11)],
    ),
    "POSIX_MQUEUE": _Calls("POSIX message queues", [(240, 6)], [(180, 6)]),
    "INOTIFY_USER": _Calls("inotify", [(253, 3), (294, 1)], [(26, 3)]),
    "FANOTIFY": _Calls("fanotify", [(300, 2)], [(262, 2)]),
    "AIO": _Calls("kernel AIO", [(206, 5), (333, 1)], [(0, 5), (292, 1)]),
    "FHANDLE": _Calls("file handles", [(303, 2)], [(264, 2)]),
    "MEMFD_CREATE": _Calls("files without a name", [(319, 1)], [(279, 1)]),
    "SECRETMEM": _Calls("secret memory", [(447, 1)], [(447, 1)]),
    "CROSS_MEMORY_ATTACH": _Calls("memory of other processes", [(310, 2)], [(270, 2)]),
    "KCMP": _Calls("comparing processes", [(312, 1)], [(272, 1)]),
    "NUMA": _Calls("memory policies", [(237, 3), (256, 1), (279, 1)], [(235, 5)]),
    "SECURITY_LANDLOCK": _Calls("Landlock", [(444, 3)], [(444, 3)]),
    "BPF_SYSCALL": _Calls("BPF", [(321, 1)], [(280, 1)]),
    "USERFAULTFD": _Calls("userfaultfd", [(323, 1)], [(282, 1)]),
}
"""System calls by the option that they need; without it they end with ENOSYS (Linux, kernel/sys_ni.c).

io_uring and keyrings are refused in every sandbox.
"""


def lacks_of(config: Mapping[str, str], machine: str | None = None) -> tuple[Lack, ...]:
    """What a kernel with these options (names without CONFIG_, "n" or none for what is off) lacks."""
    machine = machine or os.uname().machine
    return (
        *(
            Lack(f"{what} (CONFIG_{option})", errno.EAFNOSUPPORT, families=(family,))
            for option, (what, family) in FAMILIES.items()
            if config.get(option, "n") == "n"
        ),
        *(
            Lack(f"{calls.what} (CONFIG_{option})", errno.ENOSYS, calls=_numbers(calls, machine))
            for option, calls in CALLS.items()
            if config.get(option, "n") == "n"
        ),
    )


def _numbers(calls: _Calls, machine: str) -> tuple[int, ...]:
    ranges = {"x86_64": calls.x86_64, "aarch64": calls.aarch64}[machine]
    return tuple(number for first, count in ranges for number in range(first, first + count))


def config_of(profile: str) -> dict[str, str]:
    """The options that coattest's own kernel of this profile sets; all others are off.

    An unknown profile has what ``minimal`` has.
    """
    return parse_config(kernel_parts(profile)[FRAGMENT])


def kernel_profile(metadata: bytes) -> str | None:
    """The kernel profile in an image's metadata section; None for a kernel that is not coattest's own.

    AWS's kernel, which nitro-cli puts into its images, has all of it.
    """
    try:
        document: Any = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    match document:
        case {
            "BuildMetadata": {"BuildTool": "coattest"},
            "CustomMetadata": {"kernel": {"profile": str(name)}},
        }:
            return name
        case {"BuildMetadata": {"BuildTool": "coattest"}, "CustomMetadata": dict()}:
            return MINIMAL
    return None
