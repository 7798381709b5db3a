"""The network's forwarder, with this machine's C library: a Unix socket stands for each vsock port."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import select
import socket
import string
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from coattest_parent.link.channels import Unix
from coattest_parent.link.forward import PortForwarder
from coattest_parent.link.proxy import HEAD_MAX, ConnectProxy
from support.enclave.enclave_image import compile_program
from support.parent.network import NAME, TARGET, echo, echo_server, head, serving, tls_server, trust

SOURCES = Path(__file__).parents[2] / "support" / "container_images"
OTHER = "other.coattest.test:8443"
NAMES = (TARGET, OTHER, "10.1.2.3:443")
OF_A_KIND = 128
"""TUNNELS_OF_KIND of forward.c."""
PARENT = "8000"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forwarder."""
    return compile_program("forward_parts", tmp_path_factory.mktemp("forward"), SOURCES)


@dataclass(frozen=True, slots=True)
class Running:
    """A forwarder in a folder of Unix sockets, and its CONNECT listener's port."""

    process: subprocess.Popen[str]
    folder: Path
    port: int

    def ask(self, data: bytes) -> socket.socket:
        """A connection to the CONNECT listener that has sent this."""
        client = socket.create_connection(("127.0.0.1", self.port), 60)
        client.sendall(data)
        return client

    def from_outside(self, port: int) -> socket.socket:
        """A connection to a vsock port."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.folder / str(port)))
        return client

    def memory(self) -> int:
        """Bytes in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    @contextlib.contextmanager
    def parent(self, serve: Callable[[socket.socket], None]) -> Iterator[None]:
        """Something at the parent's port."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / PARENT))
        listener.listen()
        with serving(listener, serve):
            yield


Start = Callable[..., Running]


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts one, whose clock is so many times as fast; it runs until the test ends, and must not have ended
    before.
    """
    with contextlib.ExitStack() as stack:

        def started(listens: str = "-", names: Sequence[str] = NAMES, times: int = 1) -> Running:
            command, environment = [program, listens, *names], {"TIMES": str(times)}
            process = stack.enter_context(
                subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            found = Running(process, tmp_path, int(process.stdout.readline()))
            stack.callback(lambda: _still_runs(process))
            return found

        yield started


def _still_runs(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None


def everything(client: socket.socket) -> bytes:
    """Until the other side has finished, or is gone."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            found += data
    return found


def answers(program: Path, heads: Sequence[bytes]) -> list[int]:
    """What the parser says of each."""
    raw = b"".join(len(one).to_bytes(2, "little") + one for one in heads)
    done = subprocess.run([program, "=", *NAMES], input=raw, capture_output=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (head(), 0),
        (head(TARGET, f"Host: {TARGET}", "Proxy-Connection: keep-alive", "User-Agent: a (b; c)\t"), 0),
        (head(OTHER, version="HTTP/1.0"), 1),
        (head("API.Coattest.TEST:443"), 0),
        (head("10.1.2.3:443"), 2),
        # A different host or port.
        (head("evil.test:443"), -403),
        (head(f"{NAME}:80"), -403),
        (head(f"{NAME}:0443"), -403),
        (head(f"{NAME}:+443"), -403),
        (head(f"{NAME}:443:443"), -403),
        (head(f"{NAME}:8443"), -403),
        (head("other.coattest.test:443"), -403),
        (head(f"{NAME}.:443"), -403),
        (head(f"x{TARGET}"), -403),
        (head(f"{TARGET}4"), -403),
        (head(NAME), -403),
        (head(""), -403),
        (head("10.1.2.03:443"), -403),
        (head("127.0.0.1:443"), -403),
        (head("[::1]:443"), -403),
        (head(f"http://{TARGET}/"), -403),
        (head(f"user@{TARGET}"), -403),
        (head(f"{TARGET}#"), -403),
        # Another method.
        (head("http://a/", method="GET"), -405),
        (head(method="connect"), -405),
        (head(method=" CONNECT"), -405),
        (head(method="CONNECTX"), -405),
        # Not a request, or one that two readers could read differently.
        (head(version="HTTP/2"), -400),
        (head(version="HTTP/1.2"), -400),
        (head(version="HTTP/1.11"), -400),
        (head(version="HTTP/1.1 "), -400),
        (head(version=" HTTP/1.1"), -400),
        (head(version=""), -400),
        (b"CONNECT \r\n\r\n", -400),
        (b"CONNECT\r\n\r\n", -405),
        (b"\r\n\r\n", -400),
        (b"\r\n" + head(), -400),
        (head(f"{TARGET} {OTHER}"), -400),
        (head().replace(b".", b"\0", 1), -400),
        (head(TARGET, "Host: a\0b"), -400),
        (head(TARGET, "Host: a\x7f"), -400),
        (head(TARGET, "Host: \xe9"), -400),
        (head(TARGET, f"Host: a\nCONNECT {OTHER} HTTP/1.1"), -400),
        (head(TARGET, f"Host: a\rCONNECT {OTHER} HTTP/1.1"), -400),
        (head(TARGET, " folded"), -400),
        (head(TARGET, "Host : a"), -400),
        (head(TARGET, ": a"), -400),
        (head(TARGET, "Host"), -400),
        (head(TARGET, "Content-Length: 0"), -400),
        (head(TARGET, "content-LENGTH: 9"), -400),
        (head(TARGET, "Transfer-Encoding: chunked"), -400),
        (head().replace(b"\r\n", b"\n"), -400),
    ],
)
def test_a_head_is_a_listed_name_or_nothing(program: Path, raw: bytes, answer: int) -> None:
    """Exactly the text of the list, but for the case of a name's letters."""
    assert answers(program, [raw]) == [answer]


REQUEST = re.compile(rb"CONNECT ([\t!-~]*) HTTP/1\.[01]")
FIELD = re.compile(rb"(?!(?:content-length|transfer-encoding):)[A-Za-z0-9_-]+:[\t -~]*", re.IGNORECASE)


def model(raw: bytes) -> int:
    """The same rules once more, in regular expressions."""
    *lines, last, nothing = raw.split(b"\r\n")
    if last or nothing or not lines or not all(re.fullmatch(rb"[\t -~]*", line) for line in lines):
        return -400
    if not lines[0] or not all(FIELD.fullmatch(line) for line in lines[1:]):
        return -400
    if not lines[0].startswith(b"CONNECT "):
        return -405
    request = REQUEST.fullmatch(lines[0])
    if not request:
        return -400
    name = request[1].decode().lower()
    return NAMES.index(name) if name in NAMES else -403


def test_mutated_heads_are_read_as_the_rules_say(program: Path) -> None:
    """Thousands of heads that are nearly right."""
    chance = random.Random(19)
    seeds = [
        head(),
        head(OTHER, "Host: a", "X-Y: b"),
        head("10.1.2.3:443", version="HTTP/1.0"),
        head(method="GET"),
    ]
    pieces = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b":",
        b"\t",
        b"\xff",
        b"443",
        b"CONNECT ",
        b"Content-Length: 1\r\n",
    ]
    heads = []
    for _ in range(6000):
        raw = bytearray(chance.choice(seeds)[:-4])
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(raw))
            letter = chance.choice(string.printable).encode()
            raw[at : at + chance.randrange(3)] = chance.choice((letter, chance.choice(pieces), b""))
        raw += b"\r\n\r\n"
        heads.append(bytes(raw[: raw.index(b"\r\n\r\n") + 4]))  # as the reader cuts it
    found = answers(program, heads)
    wanted = [model(raw) for raw in heads]
    assert [row for row in zip(heads, found, wanted, strict=True) if row[1] != row[2]] == []
    assert {0, 1, 2, -400, -403, -405} == set(wanted)


def test_https_goes_out_through_both_lists(start: Start, tmp_path: Path) -> None:
    """A client of Python's library, the forwarder, the parent's proxy and a server: TLS from end to end."""
    running = start()
    with (
        tls_server(tmp_path) as port,
        ConnectProxy(Unix(tmp_path / PARENT), {TARGET: ("127.0.0.1", port)}) as proxy,
    ):
        client = http.client.HTTPSConnection("127.0.0.1", running.port, context=trust(), timeout=60)
        client.set_tunnel(NAME, 443)
        client.request("GET", "/")
        assert client.getresponse().read() == b"hello"
        assert proxy.tunnels_opened == 1
        # Listed inside, and not by the parent: it protects itself.
        refused = running.ask(head(OTHER))
        assert everything(refused).startswith(b"HTTP/1.1 403 Forbidden")
        assert proxy.refused == [OTHER]


def test_a_server_inside_is_asked_from_outside(start: Start, tmp_path: Path) -> None:
    """By a TCP port of the parent; the end of each direction is passed on, and no byte is lost."""
    payload = bytes(range(256)) * 8192
    with echo_server() as port:
        start(f"5005:{port},5006:1", ())
        with PortForwarder(("127.0.0.1", 0), Unix(tmp_path / "5005")) as outside:
            client = socket.create_connection(("127.0.0.1", outside.port), 60)
            sender = threading.Thread(
                target=lambda: (client.sendall(payload), client.shutdown(socket.SHUT_WR))
            )
            sender.start()
            assert everything(client) == payload
            sender.join()
        with PortForwarder(("127.0.0.1", 0), Unix(tmp_path / "5006")) as nobody:
            client = socket.create_connection(("127.0.0.1", nobody.port), 60)
            assert everything(client) == b""


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (head("evil.test:443"), b"403"),
        (head("http://evil.test/", method="GET"), b"405"),
        (head(TARGET, "Content-Length: 5"), b"400"),
        (head() + b"early", b"400"),
        (head() + head(OTHER), b"400"),
        (b"CONNECT " + b"a" * HEAD_MAX, b"431"),
        (b"A: b\r\n" * HEAD_MAX, b"431"),
        (b"CONNECT api", b"408"),
        (b"", b"408"),
    ],
)
def test_what_is_refused_never_reaches_the_parent(start: Start, raw: bytes, answer: bytes) -> None:
    """Nor does a head that does not come to its end, whose time ends."""
    reached: list[bytes] = []
    late = answer == b"408"
    running = start(times=10 if late else 1)
    with running.parent(lambda peer: reached.append(peer.recv(1))):
        with contextlib.suppress(ConnectionError), running.ask(raw) as client:
            found = everything(client)
            assert found.startswith(b"HTTP/1.1 " + answer) or (answer == b"431" and not found)
        # A server for one connection after another would be silent now. Under its fast clock it can be late.
        assert everything(running.ask(head("x:1")))[9:12] in ((b"403", b"408") if late else (b"403",))
    assert reached == []


def test_the_parent_gets_the_measured_text(start: Start) -> None:
    """Not what was read: neither fields nor the case of letters; also of a head that comes byte by byte."""
    got: list[bytes] = []

    def serve(peer: socket.socket) -> None:
        got.append(peer.recv(65536))
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        echo(peer)

    running = start()
    with running.parent(serve):
        client = running.ask(b"")
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(TARGET.upper(), "Host: evil.test", "X-Forwarded-Host: evil.test"):
            client.send(bytes([byte]))
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n\r\n")
        client.sendall(b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n"
    assert got == [head()]


def test_without_a_parent_there_is_an_answer(start: Start) -> None:
    """And the forwarder goes on."""
    running = start()
    for _ in range(3):
        assert everything(running.ask(head())).startswith(b"HTTP/1.1 502")


@pytest.mark.parametrize("said", [b"", b"\0\xff" * 100, b"HTTP/1.1 200 OK\r\n"])
def test_a_hostile_parent_ends_its_own_connection(start: Start, said: bytes) -> None:
    """What it says comes to the client as it is, who believes TLS alone."""

    def serve(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(said)

    running = start()
    with running.parent(serve):
        assert everything(running.ask(head())) == said


def test_a_full_side_holds_no_other_up_and_takes_no_memory(start: Start) -> None:
    """The parent floods a client who reads nothing; every tunnel is taken; then one ends."""

    def flood(peer: socket.socket) -> None:
        peer.recv(65536)
        while True:
            peer.sendall(b"x" * 65536)

    with echo_server() as port:
        running = start(f"5005:{port}")
        with running.parent(flood), contextlib.ExitStack() as stack:
            clients = [stack.enter_context(running.ask(head())) for _ in range(OF_A_KIND)]
            for client in clients:
                assert client.recv(1) == b"x"
            waiting = stack.enter_context(running.ask(head("evil.test:443")))
            assert select.select([waiting], [], [], 0.5)[0] == []
            assert running.memory() < 16 << 20
            outside = stack.enter_context(running.from_outside(5005))
            outside.sendall(b"still there")
            outside.shutdown(socket.SHUT_WR)
            assert everything(outside) == b"still there"
            clients[0].close()
            assert everything(waiting).startswith(b"HTTP/1.1 403")


def test_nothing_listens_that_was_not_asked_for(start: Start) -> None:
    """Without names there is no CONNECT listener, without ports no socket."""
    assert start("-", ("a.test:1",)).port
    assert [path.name for path in start("5005:80", ()).folder.iterdir()] == ["5005"]
