"""What a member sees and relies on: retries, events, metrics, health, stopping, publishing."""

from __future__ import annotations

import configparser
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import coattest_parent
from coattest.aws import AwsFailure
from coattest.errors import CoattestError, UsageError
from coattest_parent.cli.auction import VERBS
from coattest_parent.link import retry, status, telemetry
from coattest_parent.link.channels import ChannelFailure, Unix, connect_to
from coattest_parent.link.enclave import EnclaveFailed, EnclaveRefused
from coattest_parent.link.proxy import ConnectProxy
from coattest_parent.link.retry import Backoff, Retry
from coattest_parent.link.status import State, StatusServer, parse_status_address
from coattest_parent.link.stop import Stop, Stopped
from coattest_parent.link.telemetry import Metrics, Telemetry
from support.parent.limits import many_descriptors

ROOT = Path(__file__).resolve().parents[3]
LONG = f"127.0.0.1:{'9' * 5000}"
DENIED = "the enclave gave no result: kms-denied: buyer-1:"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (EnclaveFailed("no", code="kms-failed"), True),
        (ChannelFailure("no"), True),
        (AwsFailure("no", service_code="ThrottlingException"), True),
        (AwsFailure("no", service_code="ExpiredToken"), True),
        (EnclaveRefused(f"{DENIED} ExpiredTokenException", code="kms-denied"), True),
        (EnclaveRefused(f"{DENIED} AccessDeniedException", code="kms-denied"), False),
        (EnclaveRefused("no: ExpiredTokenException", code="bad-seal"), False),
        (AwsFailure("no", service_code="AccessDenied"), False),
        (AwsFailure("no", service_code="RequestTimeTooSkewed"), False),
        (UsageError("no"), False),
        (Stopped("no"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: CoattestError, passes: bool) -> None:
    """Throttling, faults of a service and expired credentials pass; a refusal and a stop do not."""
    assert retry.may_pass(error) is passes


def test_waits_double_under_full_jitter_until_time_is_up() -> None:
    """Each wait is thrown between nothing and a bound that doubles up to the cap; none ends too late."""
    clock, bounds, told = [0.0], [], []

    def dice(low: float, high: float) -> float:
        assert low == 0.0
        bounds.append(high)
        return high

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def fail() -> None:
        raise EnclaveFailed("no", code="kms-failed")

    trying = Retry(
        Backoff(20.0, base=1.0, cap=5.0),
        lambda attempt, error, wait: told.append((attempt, error.code, wait)),
        clock=lambda: clock[0],
        sleep=sleep,
        dice=dice,
    )
    with pytest.raises(EnclaveFailed):
        trying.call(fail)
    assert bounds == [1, 2, 4, 5, 5, 5]
    assert clock[0] == 17
    assert told[0] == (1, "kms-failed", 1.0)
    assert [attempt for attempt, _, _ in told] == [1, 2, 3, 4, 5]


def test_without_seconds_there_is_one_attempt() -> None:
    """A back-off of no time neither waits nor tries again."""
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ChannelFailure("no")

    with pytest.raises(ChannelFailure):
        Retry().call(fail)
    assert calls == [1]


def test_the_metrics_are_prometheus_text() -> None:
    """Prometheus' own parser reads every metric, with its kind and its value."""
    metrics = Metrics()
    metrics.add("coattest_sent_bytes_total", 28_000_001)
    metrics.set("coattest_enclave_up", 1)
    metrics.opened("result")
    families = {family.name: family for family in text_string_to_metric_families(metrics.render())}
    assert len(families) == len(telemetry.COUNTERS) + len(telemetry.GAUGES)
    assert families["coattest_sent_bytes"].type == "counter"
    assert families["coattest_sent_bytes"].samples[0].value == 28_000_001
    assert families["coattest_enclave_up"].type == "gauge"
    opens = {sample.labels["outcome"]: sample.value for sample in families["coattest_opens"].samples}
    assert opens == {"result": 1, "resumed": 0, "failed": 0}
    assert all(family.documentation for family in families.values())


def test_an_event_is_one_line_and_nothing_else_can_be_logged(tmp_path: Path) -> None:
    """Names of events and fields come from closed lists, and a long text is cut."""
    path = tmp_path / "log.jsonl"
    with path.open("ab", buffering=0) as sink:
        tell = Telemetry(sink.fileno(), now=lambda: datetime(2026, 1, 2, 3, tzinfo=timezone.utc))
        tell.event("open-failed", code="x\n" * 300, exit=3)
        with pytest.raises(KeyError):
            tell.event("open-failed", secret="s")
        with pytest.raises(KeyError):
            tell.event("anything")
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == {
        "time": "2026-01-02T03:00:00.000Z",
        "event": "open-failed",
        "code": ("x\n" * 300)[:200],
        "exit": 3,
    }


def test_a_log_that_is_full_does_not_stop_an_auction() -> None:
    """A line that cannot be written is lost, and that is all."""
    with Path("/dev/full").open("ab", buffering=0) as full:
        Telemetry(full.fileno()).event("open-started")


def ask(address: Unix | tuple[str, int], path: str) -> tuple[int, str]:
    """Status and body of a GET."""
    client = http.client.HTTPConnection("localhost", timeout=60)
    client.sock = (
        connect_to(address, 60) if isinstance(address, Unix) else socket.create_connection(address, 60)
    )
    client.request("GET", path)
    response = client.getresponse()
    body = response.read().decode()
    client.close()
    return response.status, body


@pytest.mark.parametrize("where", ["unix", "127.0.0.1:0"])
def test_health_readiness_and_metrics_are_asked_over_http(where: str, tmp_path: Path) -> None:
    """200 is yes, 503 is no, and another path is 404; on loopback and on a Unix socket."""
    address = parse_status_address(f"unix:{tmp_path / 'status.sock'}" if where == "unix" else where)
    state = State(lambda: True, lambda: False, Metrics())
    with StatusServer(address, state) as server:
        there = address if isinstance(address, Unix) else ("127.0.0.1", server.port)
        assert ask(there, "/healthz") == (200, "yes\n")
        assert ask(there, "/readyz") == (503, "no\n")
        code, text = ask(there, "/metrics")
        assert code == 200
        assert list(text_string_to_metric_families(text))
        assert ask(there, "/")[0] == 404
    assert not (tmp_path / "status.sock").exists()


def open_files() -> int:
    """How many file descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def dripping(stream: socket.socket, ended: threading.Event) -> None:
    """Send a request byte by byte, and never its end, until the server has enough of it."""
    with contextlib.suppress(OSError), stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        while not ended.wait(0.05):
            stream.sendall(b"x")


@pytest.mark.parametrize("where", ["unix", "127.0.0.1:0"])
def test_nobody_takes_the_state_from_the_others(where: str, tmp_path: Path) -> None:
    """Under slow clients, and with thousands of connections that say nothing, every question is answered, by
    one thread and few descriptors.
    """
    address = parse_status_address(f"unix:{tmp_path / 'status.sock'}" if where == "unix" else where)
    ended = threading.Event()
    held: list[socket.socket] = []
    drips: list[threading.Thread] = []
    with many_descriptors(), StatusServer(address, State(lambda: True, lambda: True, Metrics())) as server:
        there = address if isinstance(address, Unix) else ("127.0.0.1", server.port)

        def another() -> socket.socket:
            if isinstance(there, Unix):
                return connect_to(there, 60)
            return socket.create_connection(there, 60)

        before, files = threading.active_count(), open_files()
        try:
            for _ in range(40):
                drips.append(threading.Thread(target=dripping, args=(another(), ended)))
                drips[-1].start()
            assert ask(there, "/healthz") == (200, "yes\n")
            for number in range(3000):
                held.append(another())
                if number % 500 == 499:
                    assert ask(there, "/readyz") == (200, "yes\n")
                    assert ask(there, "/metrics")[0] == 200
            assert threading.active_count() <= before + len(drips)
            ours = open_files() - files - len(held) - len(drips)
            assert ours <= status.CONNECTIONS_MAX + 8
            # What is dropped is closed: the first ones see it, however long they would have waited.
            held[0].settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                assert held[0].recv(1) == b""
        finally:
            ended.set()
            for stream in held:
                stream.close()
            for drip in drips:
                drip.join()
        assert ask(there, "/healthz") == (200, "yes\n")


def send_on(stream: socket.socket, piece: bytes, pause: float) -> None:
    """Send the piece again and again, until that fails."""
    while True:
        stream.sendall(piece)
        time.sleep(pause)


def test_whoever_does_not_ask_in_time_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole request, which a byte now and then does not lengthen; a head has a length."""
    monkeypatch.setattr(status, "TIMEOUT", 0.5)
    address = Unix(tmp_path / "status.sock")
    with StatusServer(address, State(lambda: True, lambda: True, Metrics())):
        for piece, pause in ((b"x", 0.05), (b"x" * 65536, 0.0)):
            with connect_to(address, 60) as stream, pytest.raises(OSError, match=r"Broken pipe|reset"):
                send_on(stream, piece, pause)
        monkeypatch.setattr(status, "TIMEOUT", 60.0)  # who asks at once is answered, however slow this is
        assert ask(address, "/healthz") == (200, "yes\n")


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 503 Service Unavailable"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (b"GET http://x/healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
    ],
)
def test_a_request_is_answered_in_http(sent: bytes, line: bytes, tmp_path: Path) -> None:
    """Also one that is none; the answer says its length, and the connection ends."""
    address = Unix(tmp_path / "status.sock")
    with (
        StatusServer(address, State(lambda: True, lambda: False, Metrics())),
        connect_to(address, 60) as stream,
    ):
        stream.sendall(sent)
        answer = b""
        while piece := stream.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == line
    length = int(next(each for each in head.split(b"\r\n") if each.startswith(b"Content-Length: "))[16:])
    assert len(body) == (0 if sent.startswith(b"HEAD") else length)


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:9464", "example.com:80", "127.0.0.1", "127.0.0.1:x", "vsock:3:4", LONG],
)
def test_a_status_address_is_on_this_machine(text: str) -> None:
    """What could be asked from elsewhere is refused."""
    with pytest.raises(UsageError):
        parse_status_address(text)


def test_a_signal_ends_the_block_once_and_what_unwinds_is_not_disturbed() -> None:
    """SIGTERM unwinds through code that catches every Exception; a second one does not stop the clean-up."""
    cleaned = []

    def work() -> None:
        try:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except Exception:
                cleaned.append("swallowed")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("clean")

    with pytest.raises(Stopped, match="SIGTERM") as caught, Stop("again") as stop:
        stop.cut(work)
    assert cleaned == ["clean"]
    assert caught.value.exit_code == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
def test_the_proxy_ends_in_the_middle_of_a_flood_of_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 connections, hundreds of them open at a time: it answers the next one, and it ends when told."""
    # Ten times as long as it is given to end: it does not wait for a connection that says nothing.
    monkeypatch.setattr("coattest_parent.link.proxy.HEAD_TIMEOUT", 600.0)
    monkeypatch.setattr("coattest_parent.link.loop.STOP_TIMEOUT", 60.0)
    address = Unix(tmp_path / "out_8000.sock")
    with ConnectProxy(address, {}) as proxy:
        held: list[socket.socket] = []
        opened = 0
        for _ in range(10_000):
            held.append(connect_to(address, 60))
            opened += 1
            if len(held) >= 400:
                held.pop(0).close()
        assert opened == 10_000
        for stream in held:
            stream.close()
        with connect_to(address, 60) as stream:
            stream.sendall(b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n")
            assert stream.recv(100).startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 503 "))
        hanging = connect_to(address, 60)
    assert not proxy.serving()
    hanging.close()


@pytest.mark.parametrize("unit", ["coattest-proxy.service", "coattest-courier.service"])
def test_a_unit_names_a_command_that_there_is(unit: str) -> None:
    """The packaged units run a verb of ``auction`` with options that it has, and restart it always."""
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(Path(coattest_parent.__file__).parent / "units" / unit)
    service = parsed["Service"]
    words = service["ExecStart"].split()
    verb = words[words.index("auction") + 1]
    assert verb in VERBS
    usage = subprocess.run(
        [sys.executable, "-c", "from coattest_parent.cli.auction import main; main()", verb, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(word in usage for word in words if word.startswith("--"))
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["coattest-proxy.service", "coattest-courier.service"])
def test_a_packaged_unit_is_not_exposed(unit: str) -> None:
    """As it is in the package, systemd-analyze security finds at most 3 of 10; no core dumps."""
    path = Path(coattest_parent.__file__).parent / "units" / unit
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert {"User=coattest", "LimitCORE=0", "CapabilityBoundingSet="} <= set(path.read_text().splitlines())


def test_a_service_says_when_it_is_ready_and_ends_when_told(tmp_path: Path) -> None:
    """The proxy notifies systemd, answers, and on SIGTERM removes its sockets and exits 0."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(60)
    asked, listen = Unix(tmp_path / "status.sock"), Unix(tmp_path / "out.sock")
    service = subprocess.Popen(
        [
            *(sys.executable, "-c", "from coattest_parent.cli.auction import main; main()", "proxy"),
            *("--listen", str(listen), "--region", "eu-central-1", "--status", str(asked)),
        ],
        env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        stderr=subprocess.PIPE,
    )
    try:
        assert notify.recv(100) == b"READY=1"
        assert ask(asked, "/readyz") == (200, "yes\n")
        service.terminate()
        assert notify.recv(100) == b"STOPPING=1"
        _, said = service.communicate(timeout=60)
    finally:
        service.kill()
        service.wait()
        notify.close()
    assert service.returncode == 0
    assert [json.loads(line)["event"] for line in said.splitlines()] == [
        "proxy-started",
        "service-started",
        "service-stopped",
        "proxy-stopped",
    ]
    assert not listen.path.exists()
    assert not asked.path.exists()
