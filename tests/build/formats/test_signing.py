"""Signing an image: with key files, KMS and PKCS#11, and by the command."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest_build.formats import signature
from coattest_build.formats.measure import measure
from coattest_build.formats.signature import check_signature, make_section, parse_signature
from coattest_build.formats.signing import load_sign, sign_image
from support.build.eif_program import eif
from support.build.images import RAMDISK, SIGNATURE, SpecImage, archive, newc, pcr, plain
from support.enclave.enclave_image import read_layout
from support.loopback import Handler, Loopback
from support.verify.signing_keys import NOW, PCR0, Key, certify, pem, signer


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An unsigned image."""
    path = tmp_path / "image.eif"
    path.write_bytes(_spec().build())
    return path


def _spec() -> SpecImage:
    return plain(ramdisks=(archive(newc(b"init", 0o100755, b"init")), archive(newc(b"cmd", data=b"cmd"))))


def _files(tmp_path: Path, key: Key, certificate: x509.Certificate) -> tuple[Path, Path]:
    key_file, certificate_file = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    certificate_file.write_bytes(pem(certificate))
    return key_file, certificate_file


def _never(secret: str) -> str:
    raise AssertionError(f"asked for {secret}")


def test_measure_gives_pcr8_of_a_signature_that_holds_only(image: Path, tmp_path: Path, key: Key) -> None:
    """A signature that was made for another image, or is out of date: exit 1 and a word."""
    now = datetime.now(timezone.utc)

    def measured(path: Path) -> tuple[int, dict[str, str], str]:
        done = eif("measure", path)
        return done.returncode, json.loads(done.stdout)["Measurements"], done.stderr

    valid = certify(key, start=now - timedelta(days=1))
    past = certify(key, start=now - timedelta(days=800))
    right = bytes.fromhex(measure(image).pcr0)
    for name, section, holds in (
        ("holds", make_section(valid, right, signer(key), now), True),
        ("other-image", make_section(valid, PCR0, signer(key), now), False),
        ("past", make_section(past, right, signer(key), now - timedelta(days=799)), False),
    ):
        spec = _spec()
        spec.sections.append((SIGNATURE, section))
        path = tmp_path / f"{name}.eif"
        path.write_bytes(spec.build())
        code, registers, said = measured(path)
        assert (code, "PCR8" in registers) == ((0, True) if holds else (1, False)), name
        assert registers["PCR0"] == right.hex()
        assert ("PCR8 is left out" in said) is not holds


def test_signed_image_keeps_its_registers(
    image: Path, tmp_path: Path, key: Key, certificate: x509.Certificate
) -> None:
    """Signing adds one section: PCR0 to PCR2 stay, PCR8 is the certificate's, the rest of the bytes too."""
    key_file, _ = _files(tmp_path, key, certificate)
    before = measure(image)
    out = tmp_path / "signed.eif"
    sign = load_sign(str(key_file), certificate, ask=_never)
    after = sign_image(image, out, certificate=certificate, sign=sign, now=NOW)
    assert (after.pcr0, after.pcr1, after.pcr2) == (before.pcr0, before.pcr1, before.pcr2)
    assert after.pcr8 == pcr(certificate.public_bytes(serialization.Encoding.DER))
    raw = out.read_bytes()
    layout = read_layout(io.BytesIO(raw))
    signed = raw[layout.sections[-1].offset :]
    spec = _spec()
    spec.sections.append((SIGNATURE, signed))
    assert raw == spec.build()
    assert check_signature(parse_signature(signed), bytes.fromhex(after.pcr0), NOW) == ()


def test_key_files_sign_deterministically(
    image: Path, tmp_path: Path, key: Key, certificate: x509.Certificate
) -> None:
    """The same key signs the same image to the same bytes, in place or beside it."""
    key_file, _ = _files(tmp_path, key, certificate)
    sign = load_sign(str(key_file), certificate, ask=_never)
    out = tmp_path / "out.eif"
    sign_image(image, out, certificate=certificate, sign=sign, now=NOW)
    sign_image(image, image, certificate=certificate, sign=sign, now=NOW)
    assert out.read_bytes() == image.read_bytes()


def test_signing_again_wants_to_be_told(
    image: Path, tmp_path: Path, key: Key, certificate: x509.Certificate
) -> None:
    """A signature is replaced only on request, and leaves the image as if signed once."""
    key_file, _ = _files(tmp_path, key, certificate)
    sign = load_sign(str(key_file), certificate, ask=_never)
    sign_image(image, image, certificate=certificate, sign=sign, now=NOW)
    once = image.read_bytes()
    with pytest.raises(UsageError) as caught:
        sign_image(image, image, certificate=certificate, sign=sign, now=NOW)
    assert caught.value.code == "eif-signed"
    sign_image(image, image, certificate=certificate, sign=sign, now=NOW, replace=True)
    assert image.read_bytes() == once


def test_key_of_another_certificate_is_refused(tmp_path: Path, key: Key) -> None:
    """A key file that does not belong to the certificate is found before anything is signed."""
    key_file, _ = _files(tmp_path, key, certify(key))
    with pytest.raises(FoundFalse) as caught:
        load_sign(str(key_file), certify(ec.generate_private_key(ec.SECP384R1())), ask=_never)
    assert caught.value.code == "signature-mismatch"


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_key_file_that_is_none(tmp_path: Path, certificate: x509.Certificate, content: bytes) -> None:
    """A file that is not a private key is a usage error."""
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_sign(str(path), certificate, ask=_never)
    assert caught.value.code == "signing-key"
    assert str(caught.value) == f"{path}: not an unencrypted PEM private key"


def test_encrypted_key_file_is_named(tmp_path: Path, key: Key, certificate: x509.Certificate) -> None:
    """An encrypted key file is a usage error that says so, not a crash."""
    path = tmp_path / "key.pem"
    encryption = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    with pytest.raises(UsageError, match=r"unencrypted.*it is encrypted"):
        load_sign(str(path), certificate, ask=_never)


@pytest.mark.parametrize(
    "content",
    [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_certificate_file_that_is_none(content: bytes) -> None:
    """A file without a certificate is a usage error of one line, in words of ours."""
    with pytest.raises(UsageError, match=r"^c.pem: not a PEM certificate \(a file with one") as caught:
        signature.load_certificate(content, where="c.pem")
    assert caught.value.code == "certificate-malformed"


def test_certificate_file_with_two(certificate: x509.Certificate) -> None:
    """A chain is not accepted: PCR8 measures one certificate, and the user should know which."""
    with pytest.raises(UsageError, match="2 certificates") as caught:
        signature.load_certificate(pem(certificate) * 2)
    assert caught.value.code == "certificate-malformed"


def test_commands_sign_measure_and_describe(image: Path, tmp_path: Path, key: Key) -> None:
    """``eif sign`` signs, ``eif measure`` shows PCR8, ``eif describe`` says that the signature holds."""
    certificate = certify(key, start=datetime.now(timezone.utc) - timedelta(days=1))
    key_file, certificate_file = _files(tmp_path, key, certificate)
    files = ("--key", str(key_file), "--certificate", str(certificate_file))
    sign = functools.partial(eif, "sign", image, *files, "--json", folder=Path("/"))
    before = image.read_bytes()
    asked = sign()
    assert (asked.returncode, json.loads(asked.stdout)["code"]) == (2, "not-confirmed")
    other = sign("--expect", f"sha256:{'0' * 64}")
    assert (other.returncode, json.loads(other.stdout)["code"]) == (1, "not-expected")
    assert image.read_bytes() == before
    done = sign("--expect", f"sha256:{hashlib.sha256(before).hexdigest()}")
    assert done.returncode == 0, done.stderr
    measured = json.loads(eif("measure", str(image)).stdout)
    assert json.loads(done.stdout) == {"image": str(image), **measured}
    assert measured["Measurements"]["PCR8"] == pcr(certificate.public_bytes(serialization.Encoding.DER))
    described = eif("describe", str(image), "--json")
    assert described.returncode == 0
    document = json.loads(described.stdout)
    assert document["signature"]["ok"] is True
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert document["signature"]["certificate"]["sha256"] == hashlib.sha256(der).hexdigest()


def test_command_refuses_an_expired_certificate(image: Path, tmp_path: Path, key: Key) -> None:
    """``eif sign`` with an expired certificate is exit 1 and leaves the image alone."""
    key_file, certificate_file = _files(
        tmp_path, key, certify(key, start=datetime(2020, 1, 1, tzinfo=timezone.utc))
    )
    before = image.read_bytes()
    digest = f"sha256:{hashlib.sha256(before).hexdigest()}"
    argv = ("--key", str(key_file), "--certificate", str(certificate_file), "--expect", digest)
    done = eif("sign", image, *argv, folder=Path("/"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "expired" in done.stderr
    assert image.read_bytes() == before


def test_describe_finds_a_stale_signature(image: Path, key: Key) -> None:
    """A signed image with another ramdisk is described, and exit 1 says why its signature is not valid."""
    certificate = certify(key, start=datetime.now(timezone.utc) - timedelta(days=1))
    section = make_section(certificate, PCR0, signer(key), datetime.now(timezone.utc))
    stale = _spec()
    stale.sections += [(RAMDISK, archive()), (SIGNATURE, section)]
    image.write_bytes(stale.build())
    done = eif("describe", str(image), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [finding["code"] for finding in document["signature"]["findings"]] == ["signature-pcr0"]
    assert [finding["code"] for finding in document["findings"]] == ["signature-pcr0"]


class Kms(Handler):
    """KMS's Sign for one P-384 key, with its rule for digests (moto 5.2 hashes them a second time)."""

    key: Key
    key_id = "11111111-2222-3333-4444-555555555555"

    def do_POST(self) -> None:
        """Answer Sign as KMS does."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = 400, {"__type": "NotFoundException", "message": "Invalid keyId"}
        wanted = (self.key_id, "DIGEST", "ECDSA_SHA_384")
        if (request["KeyId"], request["MessageType"], request["SigningAlgorithm"]) == wanted:
            digest = base64.b64decode(request["Message"])
            made = self.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA384())))
            status, answer = 200, {"KeyId": self.key_id, "Signature": base64.b64encode(made).decode()}
        self.answer(status, json.dumps(answer).encode(), ("Content-Type", "application/x-amz-json-1.1"))


@pytest.fixture
def kms(key: Key, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A KMS endpoint on the loopback interface that holds the key; yields the key's id."""
    with Loopback.of(type("Holder", (Kms,), {"key": key})) as server:
        for name, value in (
            ("AWS_ENDPOINT_URL_KMS", server.url),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ):
            monkeypatch.setenv(name, value)
        yield Kms.key_id


def test_kms_key_signs(kms: str, image: Path, tmp_path: Path, certificate: x509.Certificate) -> None:
    """An ``awskms:`` URI signs with a key that never leaves KMS; another key's certificate is refused."""
    sign = load_sign(f"awskms:{kms}", certificate, ask=_never)
    signed = sign_image(image, tmp_path / "out.eif", certificate=certificate, sign=sign, now=NOW)
    assert signed.pcr8 == pcr(certificate.public_bytes(serialization.Encoding.DER))
    other = certify(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(FoundFalse) as caught:
        sign_image(image, tmp_path / "bad.eif", certificate=other, sign=sign, now=NOW)
    assert caught.value.code == "signature-invalid"
    assert not (tmp_path / "bad.eif").exists()


def test_kms_failure_is_the_environments(kms: str, certificate: x509.Certificate) -> None:
    """A key that KMS does not know is an environment failure that carries KMS's words."""
    assert kms
    with pytest.raises(EnvironmentFailure, match="Invalid keyId") as failed:
        load_sign("awskms:00000000-0000-0000-0000-000000000000", certificate, ask=_never)(b"data")
    assert failed.value.code == "signer-failed"


SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.mark.skipif(
    not SOFTHSM.exists() or not shutil.which("softhsm2-util"), reason="no SoftHSM on this machine"
)
def test_pkcs11_key_signs(image: Path, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``hsm:`` URI signs through PKCS#11, asking for the PIN."""
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    monkeypatch.setenv("PYKCS11LIB", str(SOFTHSM))
    key_file, _ = _files(tmp_path, key, certify(key))
    tool = ["softhsm2-util", "--token", "test", "--pin", "1234"]
    subprocess.run(
        [*tool, "--init-token", "--free", "--label", "test", "--so-pin", "4321"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [*tool, "--import", str(key_file), "--label", "k", "--id", "02"], check=True, capture_output=True
    )
    certificate = certify(key)
    # Another test of this process may have had the library read another store.
    pkcs11.lib(str(SOFTHSM)).reinitialize()
    asked = []

    def ask(secret: str) -> str:
        asked.append(secret)
        return "1234"

    sign = load_sign("hsm:2?label=test", certificate, ask=ask)
    signed = sign_image(image, tmp_path / "out.eif", certificate=certificate, sign=sign, now=NOW)
    assert signed.pcr8 is not None
    assert asked == ["pin"]
