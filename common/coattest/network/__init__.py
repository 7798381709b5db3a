"""What an enclave with an ordinary program inside may reach, and at which ports it is reached.

One grammar for image.toml, the command line, the measured file and the parent. A name is compared as text, on
both sides: nothing is resolved inside, and the same text is in what is measured.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from coattest.errors import UsageError

CONNECT_PORT = 3128
"""Where the CONNECT listener is on the loopback; forward.c has the same."""
PROXY_URL = f"http://127.0.0.1:{CONNECT_PORT}"
MAX_LISTEN = 16
MAX_CONNECT = 64
"""Of forward.c, whose tables have this size."""
MAX_VSOCK = 2**32 - 2
"""The largest vsock port (vsock(7))."""
MAX_TCP = 65_535
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?=[a-z]){_LABEL}")
"""RFC 1123, 2.1, in lower case. The last label begins with a letter: no resolver takes it for an address."""
_PORT = re.compile(r"[1-9][0-9]{0,9}")


def _port(text: str, most: int) -> int | None:
    return int(text) if _PORT.fullmatch(text) and int(text) <= most else None


def _malformed(what: str, text: str, hint: str) -> UsageError:
    return UsageError(f"not {what}: {text[:80]!a}", hint=hint, code="bad-network")


@dataclass(frozen=True, slots=True)
class Listen:
    """A vsock port of the enclave, and the TCP port of its loopback where each connection goes."""

    vsock: int
    tcp: int

    def __str__(self) -> str:
        return f"{self.vsock}:{self.tcp}"


def parse_listen(text: str) -> Listen:
    """``VSOCK:TCP`` in decimal digits. Raises UsageError (``bad-network``)."""
    outside, _, inside = text.partition(":")
    vsock, tcp = _port(outside, MAX_VSOCK), _port(inside, MAX_TCP)
    if vsock is None or tcp is None:
        raise _malformed("a vsock port and a TCP port", text, "such as 5005:8080")
    if tcp == CONNECT_PORT:
        raise _malformed(
            "a port for a server", text, f"{CONNECT_PORT} is the CONNECT listener's, for the program alone"
        )
    return Listen(vsock, tcp)


def parse_target(text: str) -> tuple[str, int]:
    """``HOST:PORT``: a name of DNS in lower case, or an IPv4 address as it is written usually.

    Raises UsageError (``bad-network``).
    """
    host, _, digits = text.rpartition(":")
    port = _port(digits, MAX_TCP)
    if port is None or not (_HOST.fullmatch(host) or _is_ipv4(host)):
        raise _malformed(
            "a host and a port",
            text,
            "such as api.example.org:443, in lower case and without a dot at the end",
        )
    return host, port


def _is_ipv4(text: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(text)) == text
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Network:
    """Both pipes of an enclave. ``connect`` has the measured texts, each ``HOST:PORT``."""

    listen: tuple[Listen, ...] = ()
    connect: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.listen or self.connect)

    def __str__(self) -> str:
        if not self:
            return "none beside vsock, which the program may use itself"
        listen = [f"vsock {one.vsock} to 127.0.0.1:{one.tcp}" for one in self.listen]
        return "; ".join((*listen, f"out to {', '.join(self.connect) or 'nothing'}"))

    def to_json(self) -> dict[str, Any]:
        """A JSON object of two lists of texts."""
        return {"listen": [str(one) for one in self.listen], "connect": list(self.connect)}


NO_NETWORK = Network()


def parse_network(listen: Sequence[str], connect: Sequence[str]) -> Network:
    """A network from its texts, in their order. Raises UsageError (``bad-network``)."""
    _check_list("listen", listen, (text.partition(":")[0] for text in listen), MAX_LISTEN)
    _check_list("connect", connect, connect, MAX_CONNECT)
    for text in connect:
        parse_target(text)
    return Network(tuple(parse_listen(text) for text in listen), tuple(connect))


def _check_list(name: str, texts: Sequence[str], keys: Iterable[str], most: int) -> None:
    if len(texts) > most:
        raise UsageError(f"{name} has {len(texts)} entries", hint=f"at most {most}", code="bad-network")
    if len(set(keys)) != len(texts):
        raise UsageError(f"{name} names one port or host twice", hint="leave one out", code="bad-network")
