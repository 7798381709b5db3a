"""A KMS Decrypt endpoint over real TLS, and the CONNECT proxy in front of it, in threads of the test.

It checks key id, ciphertext and encryption context, and answers to the public key in the (unsigned) document.
It has no key policies: what enforces attestation is tested elsewhere. ``tamper`` changes the answer,
and ``raw`` the bytes of the reply: it gets the right body.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import http.server
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)
from cryptography.x509.oid import NameOID

from coattest_local.host.unix_server import UnixServer
from support.enclave.fake_nsm import fields_of
from support.loopback import Handler, Loopback

REGION = "eu-central-1"
HOST = f"kms.{REGION}.coattest.test"

_OAEP = bytes.fromhex(
    "303c06092a864886f70d010107302fa00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500"
)


def der(tag: int, *contents: bytes) -> bytes:
    """A definite-length value."""
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def ber(tag: int, *contents: bytes) -> bytes:
    """An indefinite-length constructed value."""
    return bytes([tag, 0x80]) + b"".join(contents) + b"\0\0"


def make_envelope(
    plaintext: bytes,
    key: rsa.RSAPublicKey,
    spki: bytes,
    *,
    primitive: bool = False,
    chunk: int = 1000,
    content_key: bytes | None = None,
    padded: bytes | None = None,
) -> bytes:
    """CiphertextForRecipient in KMS's BER: ``padded`` replaces the padded plaintext."""
    content_key = content_key or os.urandom(32)
    iv = os.urandom(16)
    padder = block_padding.PKCS7(128).padder()
    block = padder.update(plaintext) + padder.finalize() if padded is None else padded
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(block) + encryptor.finalize()
    wrapped = key.encrypt(content_key, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    pieces = [der(0x04, ciphertext[i : i + chunk]) for i in range(0, len(ciphertext), chunk)]
    content = der(0x80, ciphertext) if primitive else ber(0xA0, *pieces)
    recipient = der(
        0x30, der(0x02, b"\x02"), der(0x80, hashlib.sha256(spki).digest()), _OAEP, der(0x04, wrapped)
    )
    cipher = der(0x30, der(0x06, bytes.fromhex("60864801650304012a")), der(0x04, iv))
    encrypted = ber(0x30, der(0x06, bytes.fromhex("2a864886f70d010701")), cipher, content)
    enveloped = ber(0x30, der(0x02, b"\x02"), der(0x31, recipient), encrypted)
    return ber(0x30, der(0x06, bytes.fromhex("2a864886f70d010703")), ber(0xA0, enveloped))


@dataclass(frozen=True)
class Wrapped:
    """A data key as the endpoint keeps it."""

    data_key: bytes
    key_arn: str
    context: dict[str, str]


class Denied(Exception):
    """KMS's refusal: its error type."""


def make_ca() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA of this test's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coattest test CA")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    return builder.sign(key, SHA256()), key


def make_leaf(ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, host: str, directory: Path) -> Path:
    """A file with a certificate for ``host`` and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(ca.subject)
    builder = builder.public_key(key.public_key()).serial_number(2)
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    leaf = builder.sign(ca_key, SHA256())
    path = directory / f"{host}.pem"
    path.write_bytes(
        leaf.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


class FakeKms(Loopback):
    """The endpoint; a context manager. ``certificate`` is a PEM file with chain and key."""

    def __init__(self, certificate: Path) -> None:
        self.keys: dict[bytes, Wrapped] = {}
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.tamper: Callable[[int, dict[str, Any]], tuple[int, dict[str, Any] | bytes]] | None = None
        self.raw: Callable[[bytes], Iterable[bytes]] | None = None
        owner = self

        class Endpoint(Handler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, reply = owner.answer(dict(self.headers), json.loads(body))
                if owner.raw is None:
                    self.answer(status, reply)
                    return
                self.close_connection = True
                with contextlib.suppress(OSError):
                    for piece in owner.raw(reply):
                        self.wfile.write(piece)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass

        super().__init__(Server(("127.0.0.1", 0), Endpoint), context)
        self.address = ("127.0.0.1", self.port)

    def wrap(self, data_key: bytes, key_arn: str, context: Mapping[str, str]) -> bytes:
        """The ciphertext blob of a data key."""
        blob = os.urandom(180)
        self.keys[blob] = Wrapped(data_key, key_arn, dict(context))
        return blob

    def answer(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, bytes]:
        """KMS's reply to one request: status and body."""
        self.requests.append((headers, body))
        fields: dict[str, Any] | bytes
        try:
            status, fields = 200, self._decrypt(body)
        except Denied as error:
            status, fields = 400, {"__type": str(error), "message": "no"}
        if self.tamper:
            status, fields = self.tamper(status, fields)
        return status, fields if isinstance(fields, bytes) else json.dumps(fields).encode()

    def _decrypt(self, body: dict[str, Any]) -> dict[str, Any]:
        wrapped = self.keys.get(base64.b64decode(body["CiphertextBlob"]))
        if wrapped is None or wrapped.context != body["EncryptionContext"]:
            raise Denied("InvalidCiphertextException")
        if wrapped.key_arn != body["KeyId"]:
            raise Denied("IncorrectKeyException")
        spki = fields_of(base64.b64decode(body["Recipient"]["AttestationDocument"]))["public_key"]
        public_key = load_der_public_key(spki)
        assert isinstance(public_key, rsa.RSAPublicKey)
        envelope = make_envelope(wrapped.data_key, public_key, spki)
        return {
            "KeyId": wrapped.key_arn,
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "Plaintext": "",
            "CiphertextForRecipient": base64.b64encode(envelope).decode(),
        }


class FakeProxy:
    """The parent's CONNECT proxy on a Unix socket: every host is ``target``; ``seen`` is all that passed.

    A tunnel is cut after so many bytes from the enclave: the next ones as ``next_cuts`` says, every other as
    ``cut_after`` says.
    """

    def __init__(self, path: Path, target: tuple[str, int]) -> None:
        self.asked: list[str] = []
        self.seen = bytearray()
        self.refuse = False
        self.cut_after: int | None = None
        self.next_cuts: list[int] = []
        self._target = target
        self._server = UnixServer(path, self._tunnel, seconds=60, connections=16)

    def __enter__(self) -> FakeProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _tunnel(self, stream: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := stream.recv(1)):
                return
            head += byte
        self.asked.append(head.split(b"\r\n")[0].decode())
        if self.refuse:
            stream.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        cut_after = self.next_cuts.pop(0) if self.next_cuts else self.cut_after
        with socket.create_connection(self._target, timeout=60) as upstream:
            stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self._pump, args=(upstream, stream, None), daemon=True)
            back.start()
            self._pump(stream, upstream, cut_after)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, cut_after: int | None) -> None:
        with contextlib.suppress(OSError):
            moved = 0
            while data := source.recv(65536):
                self.seen += data
                moved += len(data)
                if cut_after is not None and moved > cut_after:
                    source.shutdown(socket.SHUT_RDWR)
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
