"""NSM client, clock, entropy and tunnel against real sockets that answer well or badly."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from coattest_enclave.payload import clock, entropy, nsm, transport
from coattest_enclave.payload.clock import Clock
from coattest_enclave.protocol.errors import EnclaveError
from support.enclave.fake_kms import FakeProxy
from support.enclave.fake_nsm import PCR0, FakeNsm, fields_of, make_document


@pytest.fixture
def fake(sockets: Path) -> Iterator[FakeNsm]:
    """A test double that answers."""
    with FakeNsm(sockets / "nsm.sock") as it:
        yield it


@pytest.fixture
def client(sockets: Path, fake: FakeNsm) -> nsm.Nsm:
    """A client of it."""
    return nsm.Nsm(f"unix:{sockets}/nsm.sock")


def test_a_document_carries_the_fields_that_were_asked_for(client: nsm.Nsm) -> None:
    """user_data, nonce and public key go in as given, and null stays null."""
    fields = fields_of(client.attest(user_data=b"u", nonce=None, public_key=b"k"))
    assert (fields["user_data"], fields["nonce"], fields["public_key"]) == (b"u", None, b"k")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        cbor2.dumps({"Error": "InvalidArgument"}),
        cbor2.dumps({"Attestation": {}}),
        cbor2.dumps({"Attestation": {"document": b""}}),
        cbor2.dumps({"Attestation": {"document": "text"}}),
        cbor2.dumps({"Attestation": [b"d"]}),
        cbor2.dumps([1]),
        b"\x81" * 1000,
        cbor2.dumps({"Attestation": {"document": bytes(nsm.RESPONSE_MAX)}}),
    ],
)
def test_any_other_answer_is_one_failure(client: nsm.Nsm, fake: FakeNsm, answer: bytes) -> None:
    """An error, another shape, junk and too much are EnclaveError and nothing else."""
    fake.broken = answer
    with pytest.raises(EnclaveError):
        client.attest(user_data=None, nonce=None)


def test_no_nsm_is_a_failure(sockets: Path) -> None:
    """Neither an absent socket nor an absent device raises anything else."""
    with pytest.raises(EnclaveError):
        nsm.Nsm(f"unix:{sockets}/absent.sock").attest(user_data=None, nonce=None)
    if not Path(nsm.NSM_DEVICE).exists():
        with pytest.raises(EnclaveError):
            nsm.Nsm(nsm.NSM_DEVICE).attest(user_data=None, nonce=None)


def test_the_ioctl_is_what_the_kernel_defines() -> None:
    """_IOWR(0x0A, 0, 32 bytes), from its parts."""
    assert nsm.NSM_IOCTL == (3 << 30) | (32 << 16) | (0x0A << 8) | 0


VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "attestation"


@pytest.mark.skipif(not VECTORS.is_dir(), reason="documents of real enclaves are not beside the checkout")
def test_the_time_of_real_documents_is_read() -> None:
    """From every document of real hardware, old and new encodings, a time between 2020 and 2030 is read."""
    files = sorted(VECTORS.glob("*.bin"))
    assert len(files) > 30
    for file in files:
        when = datetime.datetime.fromtimestamp(
            nsm.document_time(file.read_bytes()) / 1000, datetime.timezone.utc
        )
        assert file.name.startswith(when.strftime("%Y-%m-%d"))


@pytest.mark.parametrize(
    "document",
    [b"", b"junk", cbor2.dumps([]), cbor2.dumps([1, 2, 3]), cbor2.dumps([b"", {}, cbor2.dumps({}), b""])],
)
def test_a_document_without_time_is_a_failure(document: bytes) -> None:
    """Whatever is wrong with it, EnclaveError is what comes out."""
    with pytest.raises(EnclaveError):
        nsm.document_time(document)


def test_the_clock_starts_at_the_documents_time_and_runs(client: nsm.Nsm, fake: FakeNsm) -> None:
    """Time is the NSM's, whatever this machine believes, and moves on with the monotonic clock."""
    fake.timestamp = 1_900_000_000_000
    reading = Clock.read(client, set_system=False)
    first, second = reading.now(), reading.now()
    start = datetime.datetime.fromtimestamp(1_900_000_000, datetime.timezone.utc)
    assert start <= first <= second < start + datetime.timedelta(seconds=30)
    aged = Clock(reading.anchor_ms, reading.anchor - 3600)
    assert aged.now() - reading.now() > datetime.timedelta(minutes=59)


@pytest.mark.parametrize(
    "timestamp",
    [0, 1, 1_700_000_000, 1_795_900_000, clock.EARLIEST_MS - 1, clock.LATEST_MS + 1, 2**64 - 1],
)
def test_an_absurd_time_is_refused(client: nsm.Nsm, fake: FakeNsm, timestamp: int) -> None:
    """Zero, seconds in place of milliseconds, and far past or future are no time."""
    fake.timestamp = timestamp
    with pytest.raises(EnclaveError) as caught:
        Clock.read(client, set_system=False)
    assert caught.value.code == "clock"


@pytest.mark.parametrize("timestamp", ["2026", 1.5e12, True, -1])
def test_a_time_that_is_no_unsigned_integer_is_refused(
    client: nsm.Nsm, fake: FakeNsm, timestamp: Any
) -> None:
    """Other types never become a time."""
    fake.timestamp = timestamp
    with pytest.raises(EnclaveError):
        Clock.read(client, set_system=False)


def test_a_tagged_document_is_read_too() -> None:
    """COSE allows tag 18 around the message (RFC 9052, 2)."""
    document = make_document(user_data=None, nonce=None, public_key=None, timestamp=1_900_000_000_000)
    assert nsm.document_time(b"\xd2" + document) == 1_900_000_000_000


@pytest.mark.parametrize("content", ["virtio_rng.0\n", "none\n", "", "nsm-hwrng2\n", "\xff"])
def test_another_random_source_is_refused(tmp_path: Path, content: str) -> None:
    """Only the NSM's generator may feed the kernel that makes our keys."""
    current = tmp_path / "rng_current"
    current.write_text(content, "latin-1")
    with pytest.raises(EnclaveError):
        entropy.require_source(("nsm-hwrng",), current)


def test_the_nsms_random_source_is_accepted(tmp_path: Path) -> None:
    """nsm-hwrng as the kernel writes it passes; no file at all does not, unless the host's will do."""
    current = tmp_path / "rng_current"
    with pytest.raises(EnclaveError):
        entropy.require_source(("nsm-hwrng",), current)
    entropy.require_source(("host",), current)
    current.write_text("nsm-hwrng\n")
    entropy.require_source(("nsm-hwrng",), current)


def test_the_proxy_that_answers_is_tried_first_next_time(sockets: Path) -> None:
    """An address that does not answer costs its time-out once, not once per buyer."""
    there = f"unix:{sockets}/there.sock"
    proxies = [f"unix:{sockets}/absent.sock", there]
    with FakeProxy(sockets / "there.sock", ("127.0.0.1", 1)) as proxy:
        proxy.refuse = True
        with pytest.raises(ConnectionError):
            transport.tunnel(proxies, "kms.eu-central-1.coattest.test", time.monotonic() + 60)
    assert proxies == [there, f"unix:{sockets}/absent.sock"]
    assert proxy.asked == ["CONNECT kms.eu-central-1.coattest.test:443 HTTP/1.1"]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
    ],
)
def test_another_reply_to_connect_is_a_connection_error(sockets: Path, reply: bytes) -> None:
    """Only a whole 200 in time and of bounded length opens the tunnel."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sockets / "p.sock"))
        listener.listen(1)

        def answer() -> None:
            stream, _ = listener.accept()
            with stream, contextlib.suppress(OSError):
                stream.recv(4096)
                stream.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match=r"proxy|reset"):
            transport.tunnel(
                [f"unix:{sockets}/p.sock"], "kms.eu-central-1.coattest.test", time.monotonic() + 60
            )
        thread.join()


def test_bytes_after_the_head_belong_to_tls(sockets: Path) -> None:
    """The tunnel consumes the proxy's reply and not one byte more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sockets / "p.sock"))
        listener.listen(1)

        def answer() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(b"HTTP/1.1 200 OK\r\n\r\ntls")
                stream.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        with transport.tunnel(
            [f"unix:{sockets}/p.sock"], "kms.eu-central-1.coattest.test", time.monotonic() + 60
        ) as stream:
            assert stream.recv(100) == b"tls"
        thread.join()


def test_the_image_is_what_the_nsm_says(client: nsm.Nsm) -> None:
    """PCR0 of a document made now, whatever the profile."""
    document = client.attest(user_data=None, nonce=None)
    assert nsm.own_image(document, "aws") == nsm.own_image(document, "local") == PCR0


def test_a_debug_enclave_is_refused_by_its_own_document() -> None:
    """Zeros in PCR0 end an opening under the aws profile, before anything is received."""
    zeros = make_document(user_data=None, nonce=None, public_key=None, pcr0=bytes(48))
    with pytest.raises(EnclaveError) as caught:
        nsm.own_image(zeros, "aws")
    assert caught.value.code == "wrong-image"
    assert nsm.own_image(zeros, "local") == bytes(48)


@pytest.mark.parametrize("pcr0", [None, b"", bytes(32), 7, "00"])
def test_a_document_without_its_image_is_a_failure(pcr0: Any) -> None:
    """A register of another kind or size is no image."""
    document = make_document(user_data=None, nonce=None, public_key=None, pcr0=pcr0)
    with pytest.raises(EnclaveError):
        nsm.own_image(document, "local")
