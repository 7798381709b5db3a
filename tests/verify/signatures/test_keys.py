"""Members' keys: made, read, compared by material."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from moto.server import ThreadedMotoServer
from securesystemslib.signer import CryptoSigner

from coattest.errors import EnvironmentFailure, UsageError
from coattest_verify.signatures import dsse
from coattest_verify.signatures.keys import (
    BadKey,
    PublicKey,
    generate_key,
    load_public,
    load_remote_signer,
    load_signer,
)

ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384"])
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_generated_key_signs_and_verifies(tmp_path: Path, kind: str, passphrase: bytes | None) -> None:
    """Each key type round-trips through its files, encrypted or not, and has in-toto's key id."""
    path = tmp_path / "key"
    public = generate_key(path, kind, passphrase)
    signer = load_signer(path, lambda: passphrase or b"")
    signature = signer.sign(b"message")
    assert load_public(tmp_path / "key.pub") == public == signer.public
    library = CryptoSigner(load_pem_private_key(path.read_bytes(), passphrase)).public_key
    assert public.keyid == library.keyid
    assert public.sslib() == {**library.to_dict(), "keyid": library.keyid}
    assert public.verifies(signature, b"message")
    assert not public.verifies(signature, b"massage")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    """Making a key where one is already is an error, and the old one stays."""
    path = tmp_path / "key"
    generate_key(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        generate_key(path)
    assert path.read_bytes() == before


def test_the_wrong_passphrase_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong or missing passphrase is a usage error in one line."""
    path = tmp_path / "key"
    generate_key(path, passphrase=b"right")
    with pytest.raises(UsageError, match="passphrase is wrong") as caught:
        load_signer(path, lambda: b"wrong")
    assert caught.value.code == "key-file"
    (tmp_path / "text").write_text("no key")
    with pytest.raises(UsageError, match="not an Ed25519, P-256 or P-384 private key") as caught:
        load_signer(tmp_path / "text", lambda: b"right")
    assert "passphrase" not in caught.value.what
    monkeypatch.delenv("COATTEST_PASSPHRASE_FILE", raising=False)
    with pytest.raises(UsageError, match="COATTEST_PASSPHRASE_FILE") as caught:
        load_signer(path)
    assert caught.value.code == "key-file"
    (tmp_path / "pass").write_text("right\n")
    monkeypatch.setenv("COATTEST_PASSPHRASE_FILE", str(tmp_path / "pass"))
    assert load_signer(path).public == load_public(tmp_path / "key.pub")


def test_a_key_comes_by_a_descriptor(tmp_path: Path) -> None:
    """A pipe that the caller opened, so that the key is in no file; another path to a pipe stays refused."""
    public = generate_key(tmp_path / "key")
    content = (tmp_path / "key").read_bytes()

    def piped() -> int:
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        return reading

    reading = piped()
    assert load_signer(Path(f"/dev/fd/{reading}")).public == public
    os.close(reading)
    with pytest.raises(UsageError, match="is not open for reading"):
        load_signer(Path(f"/dev/fd/{reading}"))
    reading = piped()
    with pytest.raises(UsageError, match="symbolic link"):
        load_signer(Path(f"/proc/self/fd/{reading}"))
    os.close(reading)


def test_one_material_has_one_encoding() -> None:
    """A compressed point is the same key in other bytes, so it is refused instead of counted twice."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    assert PublicKey.from_spki(spki).spki == spki
    with pytest.raises(BadKey):
        PublicKey.from_spki(header + point)
    with pytest.raises(BadKey):
        PublicKey.from_spki(spki + b"\0")
    with pytest.raises(BadKey):
        PublicKey.from_text(base64.b64encode(spki).decode() + "\n")


@pytest.mark.parametrize(
    "raw",
    [
        bytes(32),
        b"\1" + bytes(31),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
    ],
)
def test_weak_ed25519_points_are_refused(raw: bytes) -> None:
    """A key of small order verifies signatures that nobody made; a non-canonical one has two encodings."""
    with pytest.raises(BadKey):
        PublicKey.from_spki(ED25519_PREFIX + raw)


def test_other_key_types_are_refused() -> None:
    """RSA and other curves are not members' keys."""
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP256K1()),
    ):
        with pytest.raises(BadKey):
            PublicKey.from_pem(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A KMS on loopback. moto signs messages as RAW only; securesystemslib sends digests: added here."""

    def sign(self: Any, message: bytes, signing_algorithm: str) -> bytes:
        digest = {"ECDSA_SHA_256": SHA256(), "ECDSA_SHA_384": SHA384()}[signing_algorithm]
        signature: bytes = self.private_key.sign(message, ec.ECDSA(Prehashed(digest)))
        return signature

    monkeypatch.setattr("moto.kms.utils.ECDSAPrivateKey.sign", sign)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield boto3.client("kms")
    server.stop()


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384"])
def test_a_key_in_kms_signs_like_a_file(aws: Any, spec: str) -> None:
    """``awskms:`` finds which of the member's keys it holds, and its signatures verify."""
    created = aws.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    public = PublicKey.from_spki(aws.get_public_key(KeyId=created["KeyId"])["PublicKey"])
    stranger = PublicKey.from_pem(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    uri = f"awskms:{created['Arn']}"
    signer = load_remote_signer(uri, [public], str)
    envelope = dsse.sign_envelope(signer, "text/plain", b"payload")
    assert envelope.signers([public]) == (public,)
    with pytest.raises(UsageError, match="holds none of the keys") as caught:
        load_remote_signer(uri, [], str)
    assert caught.value.code == "wrong-key"
    if spec == "ECC_NIST_P256":
        with pytest.raises(UsageError, match="holds none of the keys") as caught:
            load_remote_signer(uri, [stranger], str)
        assert caught.value.code == "wrong-key"
        assert load_remote_signer(uri, [stranger, public], str)


def test_a_signer_that_fails_is_the_environments_fault(aws: Any) -> None:
    """A key that KMS does not have is exit code 3 with KMS's own words."""
    public = PublicKey.from_pem(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(EnvironmentFailure, match="NotFoundException"):
        load_remote_signer("awskms:11111111-2222-3333-4444-555555555555", [public], str)
