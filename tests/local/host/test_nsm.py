"""The simulated NSM answers as AWS's does, and its documents verify against its own root only."""

from __future__ import annotations

import hashlib
import socket
import struct
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from coattest_local.host.nsm import FIELD_MAX, REQUEST_MAX, SimulatedNsm, boot_pcrs
from coattest_local.host.nsm_server import NsmServer

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=timezone.utc)
MODULE = "i-1234567890abcdef0-enc0123456789abcdef"
IMAGE = {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48}
ROLE, INSTANCE = b"\x04" * 48, b"\x05" * 48


def make_nsm(*, debug: bool = False, image: dict[int, bytes] | None = None) -> SimulatedNsm:
    """An NSM whose chain is issued when it is first needed."""
    registers = boot_pcrs(image or IMAGE, pcr3=ROLE, pcr4=INSTANCE, debug=debug)
    return SimulatedNsm(module_id=MODULE, pcrs=registers)


def ask(nsm: SimulatedNsm, request: Any, now: datetime = NOW) -> Any:
    """The decoded response to a request."""
    return cbor2.loads(nsm.respond(cbor2.dumps(request), now=now))


def attest(nsm: SimulatedNsm, now: datetime = NOW, **fields: bytes | None) -> bytes:
    """An attestation document."""
    document: bytes = ask(nsm, {"Attestation": fields}, now)["Attestation"]["document"]
    return document


def payload_of(document: bytes) -> dict[str, Any]:
    """The decoded payload of a document."""
    payload: dict[str, Any] = cbor2.loads(cbor2.loads(document)[2])
    return payload


def test_a_document_has_the_bytes_of_a_modern_aws_document() -> None:
    """Header, indefinite map, key order, field types and signature length are those of a real one of 2026."""
    document = attest(make_nsm(), user_data=b"data", nonce=b"n" * 32)
    assert document.startswith(bytes.fromhex("8444a1013822a059"))
    protected, unprotected, payload, signature = cbor2.loads(document)
    assert (protected, unprotected, len(signature)) == (bytes.fromhex("a1013822"), {}, 96)
    assert payload[0] == 0xBF
    assert payload[-1] == 0xFF
    fields = cbor2.loads(payload)
    assert list(fields) == [
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    ]
    assert fields["timestamp"] == 1780315200000
    assert sorted(fields["pcrs"]) == list(range(16))
    assert (fields["public_key"], fields["user_data"], fields["nonce"]) == (None, b"data", b"n" * 32)


def test_a_document_is_shaped_like_the_real_ones() -> None:
    """Encoded again from its own values, a real document of 2026 has exactly the bytes it has."""
    vectors = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "attestation"
    if not vectors.is_dir():
        pytest.skip("the shared vectors are not here")
    real = sorted(vectors.glob("2026*.bin"))
    assert real
    for path in real:
        fields = cbor2.loads(cbor2.loads(path.read_bytes())[2])
        again = b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in fields.items())
        assert cbor2.loads(path.read_bytes())[2] == b"\xbf" + again + b"\xff"
        assert list(fields) == list(payload_of(attest(make_nsm())))


def test_the_leaf_signs_the_document() -> None:
    """The signature verifies under the leaf certificate over the COSE structure."""
    protected, _, payload, signature = cbor2.loads(attest(make_nsm()))
    leaf = x509.load_der_x509_certificate(cbor2.loads(payload)["certificate"]).public_key()
    assert isinstance(leaf, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big"))
    leaf.verify(der, cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA384()))


def test_the_verifier_accepts_it_with_the_simulators_root_only() -> None:
    """coattest verify accepts the document below LOCAL_SIMULATOR and refuses it below AWS's root."""
    attestation = pytest.importorskip("coattest_verify.attestation")
    roots = pytest.importorskip("coattest_verify.attestation.profiles")
    document = attest(make_nsm(), nonce=b"n" * 32)
    expectations = [attestation.ExpectPcrs(IMAGE), attestation.ExpectNonce(b"n" * 32)]
    local = attestation.verify_document(document, expectations, now=NOW, root=roots.LOCAL_SIMULATOR)
    assert local.ok, local.findings
    assert not attestation.verify_document(document, expectations, now=NOW, root=roots.AWS_NITRO).ok


def test_a_debug_enclave_keeps_only_role_and_instance() -> None:
    """Debug mode zeros PCR0, 1, 2 and 8, not 3 and 4."""
    pcrs = payload_of(attest(make_nsm(debug=True, image={**IMAGE, 8: b"\x08" * 48})))["pcrs"]
    assert {index for index, value in pcrs.items() if value != bytes(48)} == {3, 4}


def test_a_signed_image_shows_in_pcr8() -> None:
    """The register of the signing certificate is in the document when the image has one."""
    assert payload_of(attest(make_nsm(image={**IMAGE, 8: b"\x08" * 48})))["pcrs"][8] == b"\x08" * 48


def test_the_leaf_is_renewed_before_it_ends() -> None:
    """A document made long after the start carries a certificate that is in date."""
    nsm = make_nsm()
    first, second = payload_of(attest(nsm)), payload_of(attest(nsm, NOW + timedelta(minutes=30)))
    assert first["certificate"] == second["certificate"]
    late = NOW + timedelta(days=2)
    renewed = x509.load_der_x509_certificate(payload_of(attest(nsm, late))["certificate"])
    assert renewed.not_valid_before_utc <= late < renewed.not_valid_after_utc


def test_describing_names_the_module_and_its_locks() -> None:
    """DescribeNSM and DescribePCR have the fields of AWS's API."""
    nsm = make_nsm()
    assert ask(nsm, "DescribeNSM") == {
        "DescribeNSM": {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": MODULE,
            "max_pcrs": 32,
            "locked_pcrs": list(range(16)),
            "digest": "SHA384",
        }
    }
    assert ask(nsm, {"DescribePCR": {"index": 4}}) == {"DescribePCR": {"lock": True, "data": INSTANCE}}
    assert ask(nsm, {"DescribePCR": {"index": 31}}) == {"DescribePCR": {"lock": False, "data": bytes(48)}}
    assert len(ask(nsm, "GetRandom")["GetRandom"]["random"]) == 256


def test_a_free_register_can_be_extended_locked_and_then_appears_in_documents() -> None:
    """ExtendPCR hashes the old value and the data; a locked register is read-only and is attested."""
    nsm = make_nsm()
    value = hashlib.sha384(bytes(48) + b"data").digest()
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"data"}}) == {"ExtendPCR": {"data": value}}
    assert 16 not in payload_of(attest(nsm))["pcrs"]
    assert ask(nsm, {"LockPCR": {"index": 16}}) == "LockPCR"
    assert payload_of(attest(nsm))["pcrs"][16] == value
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"x"}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"LockPCR": {"index": 16}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"LockPCRs": {"range": 20}}) == "LockPCRs"
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(20))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"DescribePCR": {"index": -1}}, "InvalidIndex"),
        ({"DescribePCR": {"index": True}}, "InvalidArgument"),
        ({"DescribePCR": {}}, "InvalidArgument"),
        ({"ExtendPCR": {"index": 0, "data": b"x"}}, "ReadOnlyIndex"),
        ({"ExtendPCR": {"index": 20, "data": "text"}}, "InvalidArgument"),
        ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
        ({"Attestation": {"nonce": "text"}}, "InvalidArgument"),
        ({"Attestation": {"nonce": bytes(FIELD_MAX + 1)}}, "InputTooLarge"),
        ("Attestation", "InvalidOperation"),
        ({"GetRandom": {}}, "InvalidOperation"),
        ({"Sign": {}}, "InvalidOperation"),
        ({"Attestation": {}, "GetRandom": {}}, "InvalidOperation"),
        (bytes(REQUEST_MAX), "InputTooLarge"),
        (7, "InvalidOperation"),
    ],
)
def test_a_bad_request_gets_the_apis_error_code(request_: Any, code: str) -> None:
    """What AWS's API refuses is refused with its error code."""
    assert ask(make_nsm(), request_) == {"Error": code}


@given(st.binary(max_size=200))
def test_no_bytes_break_the_module(request_: bytes) -> None:
    """Whatever arrives, a response in CBOR goes back."""
    assert cbor2.loads(make_nsm().respond(request_, now=NOW))


def test_the_socket_carries_requests_one_after_another(tmp_path: Path) -> None:
    """Several requests on one connection and several connections are answered; an absurd length ends one."""
    server = NsmServer(tmp_path / "nsm.sock", make_nsm(), clock=lambda: NOW)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for client in clients:
        client.connect(str(tmp_path / "nsm.sock"))
    try:
        for client in (*clients, *clients):
            client.sendall(struct.pack(">I", 12) + cbor2.dumps("DescribeNSM"))
            with client.makefile("rb") as stream:
                (length,) = struct.unpack(">I", stream.read(4))
                assert cbor2.loads(stream.read(length))["DescribeNSM"]["module_id"] == MODULE
        clients[0].sendall(struct.pack(">I", 2**31))
        assert clients[0].recv(1) == b""
    finally:
        server.close()
        for client in clients:
            client.close()
    assert not (tmp_path / "nsm.sock").exists()
