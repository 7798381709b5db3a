"""The published authorities: deterministic, of AWS's shape, and good for TLS on this machine only."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coattest.errors import UsageError
from coattest_local.host import ca

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=timezone.utc)


def test_deriving_the_tls_authority_gives_the_committed_file() -> None:
    """The certificate in the image's local profile is the one that the published phrase gives."""
    assert (ROOT / "enclave" / "profiles" / "local-ca.pem").read_bytes() == ca.tls_ca_pem()


def test_another_process_derives_the_same_certificates() -> None:
    """Neither certificate depends on a random number, a clock or a hash seed."""
    program = (
        "import sys; from coattest_local.host import ca;"
        "from cryptography.hazmat.primitives.serialization import Encoding as E;"
        "sys.stdout.buffer.write(b''.join(c()[0].public_bytes(E.DER)"
        " for c in (ca.tls_ca, ca.nitro_root)))"
    )
    here = b"".join(make()[0].public_bytes(serialization.Encoding.DER) for make in (ca.tls_ca, ca.nitro_root))
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == here


def test_the_simulators_root_is_the_one_that_verifiers_pin() -> None:
    """coattest_verify.attestation.profiles names the fingerprint of the root that the phrase gives."""
    roots = pytest.importorskip("coattest_verify.attestation.profiles")
    der = ca.nitro_root()[0].public_bytes(serialization.Encoding.DER)
    assert roots.root_for("local").sha256 == hashlib.sha256(der).digest()
    assert roots.root_for("aws") == roots.AWS_NITRO != roots.LOCAL_SIMULATOR
    with pytest.raises(UsageError) as caught:
        roots.root_for("Local")
    assert caught.value.code == "unknown-profile"


def test_a_chain_has_the_shape_of_aws() -> None:
    """A bundle of four with path lengths none, 2, 1, 0, and a leaf of three hours without key identifiers."""
    chain = ca.issue_chain("i-0-enc0", NOW)
    bundle = [x509.load_der_x509_certificate(der) for der in chain.bundle]
    leaf = x509.load_der_x509_certificate(chain.certificate)
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints).value for c in bundle]
    assert [(c.ca, c.path_length) for c in constraints] == [(True, None), (True, 2), (True, 1), (True, 0)]
    for issuer, certificate in zip(bundle, [*bundle[1:], leaf], strict=True):
        certificate.verify_directly_issued_by(issuer)
        assert certificate.not_valid_before_utc <= NOW < certificate.not_valid_after_utc
    lives = [c.not_valid_after_utc - NOW for c in [*bundle[1:], leaf]]
    assert lives == [timedelta(days=20), timedelta(days=6), timedelta(days=1), timedelta(hours=3)]
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).critical
    assert all(len(der) <= 1024 for der in (*chain.bundle, chain.certificate))
    for certificate in [*bundle, leaf]:
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP384R1)
        assert "SIMULATOR" in certificate.subject.rfc4514_string()


def serve_once(tmp_path: Path, names: list[str]) -> tuple[int, threading.Thread]:
    """A TLS server on loopback that answers one HTTP request; returns its port and its thread."""
    certificate, key = ca.issue_server_certificate(names)
    (tmp_path / "server.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener:
            raw = listener.accept()[0]
            try:
                with context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(65536)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            except OSError:
                raw.close()

    thread = threading.Thread(target=answer)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    ("issued", "asked"),
    [
        ("kms.eu-central-1.coattest.test", "kms.eu-central-1.coattest.test"),
        ("*.s3.eu-central-1.coattest.test", "bids.s3.eu-central-1.coattest.test"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_urllib3_and_ssl_accept_a_server_certificate(tmp_path: Path, issued: str, asked: str) -> None:
    """A client that trusts the authority reaches a server under the name it was issued for."""
    port, thread = serve_once(tmp_path, [issued])
    context = ssl.create_default_context(cadata=ca.tls_ca_pem().decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    pool = urllib3.HTTPSConnectionPool(
        "127.0.0.1", port, ssl_context=context, server_hostname=asked, assert_hostname=asked, retries=False
    )
    assert pool.request("GET", "/").data == b"ok"
    pool.close()
    thread.join()


@pytest.mark.parametrize("name", ["kms.eu-central-1.amazonaws.com", "10.0.0.1", "example.org"])
def test_the_authority_vouches_for_nothing_beyond_this_machine(tmp_path: Path, name: str) -> None:
    """Name constraints in the published authority make certificates for real names worthless."""
    port, thread = serve_once(tmp_path, [name])
    context = ssl.create_default_context(cadata=ca.tls_ca_pem().decode())
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"),
    ):
        context.wrap_socket(raw, server_hostname=name)
    thread.join()


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    """A client notices a server certificate that was issued for another name."""
    port, thread = serve_once(tmp_path, ["kms.eu-central-1.coattest.test"])
    context = ssl.create_default_context(cadata=ca.tls_ca_pem().decode())
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        context.wrap_socket(raw, server_hostname="kms.eu-west-1.coattest.test")
    thread.join()
