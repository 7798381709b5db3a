"""A mirror that redirects, drips, floods or answers nonsense: one line, soon, and nothing followed."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest_build.inputs import transfer
from coattest_build.inputs.fetch import fetch_index
from coattest_build.inputs.transfer import (
    LEAST,
    MAX_HEADERS,
    WAIT_SECONDS,
    Pace,
    may_lead,
    open_address,
    place,
)
from support.raises import raises_code

HEAD = b"HTTP/1.1 200 OK\r\n"


@dataclass
class Raw:
    """A server that answers each connection with the next of ``answers``; with the last for ever."""

    answers: list[bytes]
    endless: bytes = b""
    """Sent for ever after the last answer, until the other side is gone."""
    port: int = 0
    asked: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Raw:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # who waits in accept would hold it open
        self._listening.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/index"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.asked.append(connection.recv(65536))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                connection.sendall(answer.replace(b"PORT", b"%d" % self.port))
                while self.endless:
                    connection.sendall(self.endless)
            except OSError:
                pass


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's environment may name some."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def moved(location: str, code: int = 302) -> bytes:
    return f"HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


ODD = [
    *("ftp://127.0.0.1:PORT/x", "file:///etc/hostname", "data:text/plain,x", "gopher://x/", "javascript:x"),
    *("http://[", "http://[::1", "http://[v1.x]/", "http://127.0.0.1:99999/"),
    *("http://127.0.0.1:x/", "http://127.0.0.1:-1/", "http://a..b/", "http://" + "a" * 64 + ".invalid/"),
    *("http://user:pw@127.0.0.1:PORT/", "http://127.0.0.1:PORT/" + "a" * 9000, "http://\xe9\xff/"),
    *("http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/"),
]


@pytest.mark.parametrize("location", ODD)
@pytest.mark.parametrize("code", [301, 308])
def test_an_odd_redirect_is_an_error_in_one_line(location: str, code: int) -> None:
    """Another scheme, no address, a port that is none, credentials, the instance's metadata: exit 3."""
    with Raw([moved(location, code)]) as server:
        with raises_code(EnvironmentFailure, "mirror-unreachable") as caught:
            fetch_index(server.url)
        assert len(server.asked) == 1
    assert len(str(caught.value).splitlines()) == 1


def test_a_redirect_within_reach_is_followed_a_few_times() -> None:
    """As mirrors do; what was asked for stays, and the sixth redirect is too many."""
    found = HEAD + b"Content-Length: 2\r\n\r\nok"
    with Raw([moved("http://127.0.0.1:PORT/there"), moved("/again", 307), found]) as server:
        with open_address(server.url, {"Range": "bytes=1-"}, most=10) as response:
            assert transfer.read_response(response, 10) == b"ok"
        assert [asked.split()[1] for asked in server.asked] == [b"/index", b"/there", b"/again"]
        assert all(b"Range: bytes=1-" in asked for asked in server.asked)
    with (
        Raw([moved("/again")]) as server,
        raises_code(EnvironmentFailure, "mirror-unreachable", match="more than 5"),
    ):
        fetch_index(server.url)


@pytest.mark.parametrize("status", ["302 Moved", "200 OK", "404 Not Found", "100 Continue"])
@pytest.mark.parametrize(
    "endless", [b"x" * 65536, b"X-A: b\r\n" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000]
)
def test_what_has_no_end_is_not_read_to_its_end(status: str, endless: bytes) -> None:
    """The body of a redirect or of an error, headers, announcements of an answer: each has a limit."""
    begin = f"HTTP/1.1 {status}\r\nLocation: ftp://x/\r\n".encode() + (
        b"\r\n" if endless[:1] == b"x" else b""
    )
    with Raw([begin], endless) as server, pytest.raises(EnvironmentFailure) as caught:
        fetch_index(server.url, 1 << 20)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "answer",
    [
        *(
            b"",
            b"\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 999999999999 x\r\n\r\n",
            b"\0" * 100,
            b"SSH-2.0-x\r\n",
        ),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nx",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 9000 + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Content-Length: 99999\r\n\r\nx",
        HEAD + b"Location: x\r\n" * 200 + b"\r\n",
    ],
)
def test_nonsense_in_place_of_an_answer_is_an_environment_failure(answer: bytes) -> None:
    """Never exit 70."""
    with Raw([answer]) as server, pytest.raises(EnvironmentFailure):
        fetch_index(server.url)


@pytest.mark.parametrize(
    "address", ["http://[", "http://x:99999/", "http://a..b/", "ftp://x/", "x", "http://\u0661/", "file://\0"]
)
def test_a_mirror_that_is_no_address_is_an_environment_failure(address: str) -> None:
    """What the user or apt's configuration names."""
    with pytest.raises(EnvironmentFailure):
        fetch_index(address)


def test_places_on_the_network() -> None:
    """From where an address can be reached, also one of IPv4 that is written as one of IPv6."""
    table = {
        "public": ("8.8.8.8", "2606:4700::1111"),
        "private": (
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "fd00::1",
            "224.0.0.1",
            "::ffff:10.0.0.1",
        ),
        "link-local": ("169.254.169.254", "fe80::1%eth0", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
        "loopback": ("127.0.0.1", "127.8.8.8", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"),
    }
    for expected, addresses in table.items():
        assert {address: place(address) for address in addresses} == dict.fromkeys(addresses, expected)


def test_a_redirect_does_not_lead_inwards() -> None:
    """A mirror out there cannot make this machine ask its own services, its neighbours or the metadata."""
    places = ("public", "private", "link-local", "loopback")
    followed = {(first, then) for first in places for then in places if may_lead(first, then)}
    assert followed == {
        *((first, "public") for first in places),
        *((same, same) for same in places),
        ("loopback", "private"),
    }


def test_a_public_mirror_that_resolves_a_name_to_this_machine_is_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The address that is connected to is what counts, not the name."""
    with Raw([moved("http://inside.example:PORT/"), HEAD + b"\r\nsecret"]) as server:
        addresses = {"mirror.example": "8.8.8.8", "inside.example": "127.0.0.1"}

        def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (addresses[host], port))]

        monkeypatch.setattr(transfer.socket, "getaddrinfo", resolved)
        connect = socket.socket.connect
        monkeypatch.setattr(
            transfer.socket.socket, "connect", lambda made, at: connect(made, ("127.0.0.1", at[1]))
        )
        with raises_code(EnvironmentFailure, "mirror-unreachable", match="not followed"):
            fetch_index(f"http://mirror.example:{server.port}/index")
        assert len(server.asked) == 1


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def waited(pace: Pace, clock: Clock, seconds: float, count: int) -> None:
    assert pace.wait() > 0
    clock.now += seconds
    pace.arrived(count)


def test_an_answer_that_drips_is_given_up_after_a_minute_of_waiting() -> None:
    """Headers and body alike: a byte a second keeps a socket's own time limit from ever being reached."""
    clock = Clock()
    pace = Pace(3600, 1 << 20, clock)
    for _ in range(int(WAIT_SECONDS)):
        waited(pace, clock, 1, 1)
    with pytest.raises(TimeoutError, match="less than"):
        pace.wait()


def test_an_answer_that_goes_on_slowly_has_its_time_and_no_more() -> None:
    """What the reader does between two pieces is no waiting, but counts for the whole."""
    clock = Clock()
    pace = Pace(3600, 1 << 40, clock, headers=False)
    for _ in range(60):
        waited(pace, clock, WAIT_SECONDS / 2, LEAST)
        clock.now += 30
    with pytest.raises(TimeoutError, match="more than 3600"):
        pace.wait()


def test_headers_and_answers_have_sizes() -> None:
    """Also where nothing says how much follows."""
    pace = Pace(3600, 1000, Clock())
    waited(pace, Clock(), 0, MAX_HEADERS)
    with pytest.raises(transfer.http.client.HTTPException, match="headers"):
        pace.arrived(1)
    pace.headers = False
    with pytest.raises(transfer.http.client.HTTPException, match="answer"):
        pace.arrived(1000)


def test_a_mirror_in_a_folder_still_works(tmp_path: Path) -> None:
    """Without any of this."""
    (tmp_path / "index").write_bytes(b"x")
    assert fetch_index(f"file://{tmp_path}/index") == b"x"
