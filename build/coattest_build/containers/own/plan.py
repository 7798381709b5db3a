"""What an enclave's init starts: one measured file of texts that end with NUL, in init's order."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from coattest.errors import UsageError
from coattest.network import (
    MAX_CONNECT,
    MAX_LISTEN,
    MAX_TCP,
    MAX_VSOCK,
    NO_NETWORK,
    PROXY_URL,
    Listen,
    Network,
    parse_network,
)
from coattest_build.containers.errors import (
    ContainerError,
    beyond_limit,
    not_read,
    two_readings,
    unloadable,
)
from coattest_build.containers.manifests import MAX_WORDS, ContainerConfig
from coattest_build.containers.own.users import MAX_GROUPS, MAX_ID, ContainerUser
from coattest_build.formats.lenient.initramfs import Unpacking

FORMAT = "coattest-run/v1"
MAX_PLAN = (1 << 20) - 1
"""Bytes of the file; init.c has room for one more."""
MAX_WORD = (128 << 10) - 1
"""Bytes of a word or variable (``MAX_ARG_STRLEN`` of Linux, with its NUL)."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Docker's, for an image that has none."""
HOSTNAME = "enclave"
WRITTEN = {
    b"etc/hosts": b"127.0.0.1\tlocalhost " + HOSTNAME.encode() + b"\n",
    b"etc/hostname": HOSTNAME.encode() + b"\n",
    b"etc/resolv.conf": b"# An enclave has no name server.\n",
}
"""Files that Docker writes for each container, and their content here."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A program's words, environment, user and working folder, whether it gets /dev/nsm, and its network."""

    words: tuple[str, ...]
    environment: tuple[str, ...]
    user: ContainerUser
    folder: str
    nsm: bool
    network: Network = NO_NETWORK

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "command": list(self.words),
            "environment": list(self.environment),
            "uid": self.user.uid,
            "gid": self.user.gid,
            "groups": list(self.user.groups),
            "working_dir": self.folder,
            "nsm": self.nsm,
            "network": self.network.to_json() if self.network else None,
        }

    def encode(self) -> bytes:
        """The file; nothing of a network where there is none.

        Raises ContainerError when it is larger than init or the kernel takes.
        """
        groups, network = self.user.groups, self.network
        ports = [port for one in network.listen for port in (one.vsock, one.tcp)]
        pipes = (len(network.listen), *ports, len(network.connect), *network.connect) if network else ()
        fields = (
            FORMAT, int(self.nsm), self.user.uid, self.user.gid, len(groups), *groups, self.folder,
            len(self.words), *self.words, len(self.environment), *self.environment, *pipes,
        )  # fmt: skip
        raw = [str(value).encode("utf-8", "surrogateescape") for value in fields]
        if any(b"\0" in text for text in raw):
            raise ContainerError("a NUL in what the program gets", where="the home folder in /etc/passwd")
        if max(len(self.words), len(self.environment)) > MAX_WORDS:
            raise beyond_limit(f"more than {MAX_WORDS} words, or variables with Docker's own")
        longest, size = max(map(len, raw)), sum(len(text) + 1 for text in raw)
        if longest > MAX_WORD or size > MAX_PLAN:
            raise beyond_limit(
                f"command and environment of {size} bytes, the longest word {longest}: "
                f"at most {MAX_PLAN} and {MAX_WORD}"
            )
        return b"".join(text + b"\0" for text in raw)


def decode_plan(raw: bytes) -> RunPlan:
    """What ``encode`` wrote; the home folder, which it does not write, is empty. Raises ContainerError."""
    texts = raw.decode("utf-8", "surrogateescape").split("\0")[::-1] if len(raw) <= MAX_PLAN else []

    def number(most: int) -> int:
        text = texts.pop()
        if not text.isascii() or not text.isdecimal() or len(text) > len(str(most)) or int(text) > most:
            raise ValueError(text)
        return int(text)

    def several(most: int) -> tuple[str, ...]:
        return tuple(texts.pop() for _ in range(number(most)))

    malformed = ContainerError(f"is not a file of the form {FORMAT}", where="run")
    try:
        known = texts.pop() == FORMAT
        nsm, uid, gid = bool(number(1)), number(MAX_ID), number(MAX_ID)
        groups = tuple(number(MAX_ID) for _ in range(number(MAX_GROUPS)))
        folder, words, variables = texts.pop(), several(MAX_WORDS), several(MAX_WORDS)
        network = NO_NETWORK
        if len(texts) > 1:
            ports = [(number(MAX_VSOCK), number(MAX_TCP)) for _ in range(number(MAX_LISTEN))]
            network = parse_network([str(Listen(*pair)) for pair in ports], several(MAX_CONNECT))
    except (ValueError, IndexError, UsageError):
        raise malformed from None
    if not known or texts != [""] or not words:
        raise malformed
    plan = RunPlan(words, variables, ContainerUser(uid, gid, groups, ""), folder, nsm, network)
    if plan.encode() != raw:  # a network without ports and names, a number with zeros
        raise malformed
    return plan


def plan_of(unpacked: Unpacking) -> RunPlan | None:
    """What the init of the kernel profile ``container`` starts; None where it is another one."""
    found = unpacked.tree.stat(b"run")
    if found is None or found.kind != "file" or found.body.size > MAX_PLAN or found.body.zeros:
        return None
    try:
        return decode_plan(b"".join(unpacked.streams.blocks(found.body)))
    except ContainerError:
        return None


def run_plan(
    config: ContainerConfig, user: ContainerUser, *, nsm: bool, network: Network = NO_NETWORK
) -> RunPlan:
    """What Docker would start of a configuration: Entrypoint and Cmd joined, with its default variables.

    Raises ContainerError where nothing is started, or the environment has two readings.
    """
    # One empty word is Docker's way to say that there is no Entrypoint (moby, daemon/create.go).
    entrypoint = () if config.entrypoint == ("",) else config.entrypoint or ()
    words = (*entrypoint, *(config.cmd or ()))
    if not words or not words[0]:
        raise not_read("has neither Entrypoint nor Cmd: nothing would run")
    environment = environment_of(config.env, user, network)
    return RunPlan(words, environment, user, working_folder(config), nsm, network)


def working_folder(config: ContainerConfig) -> str:
    """The absolute path where the program starts. Raises ContainerError."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise unloadable(f"the working folder {config.working_dir!a} is not an absolute path")
    return "/" + posixpath.normpath(config.working_dir or "/").lstrip("/")


def environment_of(env: Iterable[str], user: ContainerUser, network: Network = NO_NETWORK) -> tuple[str, ...]:
    """Variables as NAME=VALUE, with Docker's own behind them where they are not there.

    Where the network leads out, HTTPS_PROXY too, unless the image has it in either spelling.

    Raises ContainerError for what is no variable, or has two values.
    """
    found: dict[str, str] = {}
    for item in env:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise ContainerError(f"{item[:80]!a} is not a variable", where="config: Env")
        if found.setdefault(name, value) != value:
            raise two_readings(f"{name[:80]!a} has two values", where="config: Env")
    for name, value in (("PATH", DEFAULT_PATH), ("HOSTNAME", HOSTNAME), ("HOME", user.home)):
        found.setdefault(name, value)
    if network.connect and "https_proxy" not in found:
        found.setdefault("HTTPS_PROXY", PROXY_URL)
    return tuple(f"{name}={value}" for name, value in found.items())
