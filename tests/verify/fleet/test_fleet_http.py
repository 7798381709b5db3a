"""Enclaves that are asked over HTTP: the nonce is fresh and checked, and each answer has limits."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from coattest_verify.attestation.files import FILE_MAX
from support.loopback import Handler, Loopback, free_port
from support.verify.fleet.worlds import FleetWorld, fleet_toml, shown_by, statuses, told

Respond = Callable[["Asked", bytes], None]


class Asked(Handler):
    """nitriding's form: /enclave/attestation?nonce=HEX, answered in base64."""

    seen: list[bytes]
    respond: Respond

    def do_GET(self) -> None:
        """Answer as the test says."""
        parts = urlsplit(self.path)
        nonce = bytes.fromhex(parse_qs(parts.query)["nonce"][0]) if parts.query else b""
        type(self).seen.append(nonce)
        type(self).respond(self, nonce)


@contextlib.contextmanager
def answering(respond: Respond) -> Iterator[tuple[Loopback, list[bytes]]]:
    """A server, and the nonces that it was asked for."""
    seen: list[bytes] = []
    with Loopback.of(type("OneAsked", (Asked,), {"seen": seen, "respond": staticmethod(respond)})) as server:
        yield server, seen


@pytest.fixture
def world(tmp_path: Path) -> FleetWorld:
    """A fleet without a state."""
    return FleetWorld(tmp_path, keeps_state=False)


def of_hosts(*hosts: str, name: str = "shops", timeout: str = "60s") -> dict[str, object]:
    """A source of these hosts, with time enough for a busy machine."""
    url = "http://{host}/enclave/attestation?nonce={nonce}"
    fields = {"name": name, "kind": "http", "url": url, "releases": ["0.1.0"], "hosts": list(hosts)}
    return {**fields, "timeout": timeout}


def good(number: int = 1) -> Respond:
    """A genuine document over the nonce, in base64 with a line's end, as nitriding sends it."""
    return lambda asked, nonce: asked.answer(200, base64.b64encode(shown_by(number, nonce=nonce)) + b"\n")


def test_an_enclave_answers_a_fresh_nonce_each_time(world: FleetWorld) -> None:
    """20 bytes, never twice; base64 and raw bytes alike."""
    with (
        answering(good()) as (server, seen),
        answering(lambda asked, nonce: asked.answer(200, shown_by(2, nonce=nonce))) as (raw, more),
    ):
        world.write(fleet_toml(of_hosts(f"127.0.0.1:{server.port}", f"localhost:{raw.port}")))
        assert [world.look().code for _ in range(2)] == [0, 0]
    nonces = [*seen, *more]
    assert len({*nonces}) == 4
    assert {len(nonce) for nonce in nonces} == {20}


def slowly(asked: Asked, _nonce: bytes) -> None:
    """A byte now and then, for longer than anybody waits."""
    asked.send_response(200)
    asked.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(3000):
            asked.wfile.write(b"8")
            time.sleep(0.1)


def endlessly(asked: Asked, _nonce: bytes) -> None:
    """More bytes than any document has."""
    asked.send_response(200)
    asked.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(FILE_MAX // 65_536 + 2):
            asked.wfile.write(bytes(65_536))


def elsewhere(asked: Asked, nonce: bytes) -> None:
    """A redirect to where a good answer would be."""
    asked.answer(302, b"", ("Location", f"/enclave/attestation?nonce={nonce.hex()}"))


@pytest.mark.parametrize(
    ("respond", "status", "code"),
    [
        (
            lambda asked, _: asked.answer(200, base64.b64encode(shown_by(1, nonce=bytes(20)))),
            "invalid",
            "nonce",
        ),
        (lambda asked, _: asked.answer(200, shown_by(1)), "invalid", "nonce"),
        (lambda asked, _: asked.answer(200, b"<html>"), "invalid", "not-a-document"),
        (lambda asked, _: asked.answer(503, b"later"), "silent", "unreachable"),
        (lambda asked, _: asked.wfile.write(b"\x1b[31mnot HTTP\r\n\r\n"), "silent", "unreachable"),
        (elsewhere, "silent", "unreachable"),
        (slowly, "silent", "unreachable"),
        (endlessly, "invalid", "too-large"),
    ],
    ids=["old nonce", "no nonce", "text", "error", "no HTTP", "redirect", "slow", "endless"],
)
def test_a_hostile_answer_is_named_and_costs_little(
    world: FleetWorld, respond: Respond, status: str, code: str
) -> None:
    """And the host beside it is verified all the same."""
    with answering(respond) as (server, seen), answering(good(2)) as (other, _):
        bad = of_hosts(f"127.0.0.1:{server.port}", timeout="1s" if respond is slowly else "60s")
        world.write(fleet_toml(bad, of_hosts(f"127.0.0.1:{other.port}", name="others")))
        look = world.look()
        assert len(seen) == 1 or respond is slowly
    assert list(statuses(look).values()) == [status, "verified"]
    assert code in {finding.code for finding in look.rows[0].findings}


def test_who_does_not_listen_is_silent(world: FleetWorld) -> None:
    """And exit code 3: nothing was found false."""
    with free_port() as port:
        host = f"127.0.0.1:{port}"
        world.write(fleet_toml(of_hosts(host)))
        look = world.look()
    assert (statuses(look), look.code, told(look)) == ({host: "silent"}, 3, [("alarm", "silent", host)])


def test_two_hosts_that_relay_one_enclave_are_found(world: FleetWorld) -> None:
    """A fresh nonce each, and the same enclave behind both."""
    with answering(good()) as (server, _):
        world.write(fleet_toml(of_hosts(f"127.0.0.1:{server.port}", f"localhost:{server.port}")))
        assert list(statuses(world.look()).values()) == ["verified", "repeated"]
