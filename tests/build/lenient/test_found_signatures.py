"""Signatures as people make them: their PEM is what it is, and PCR0 to 2 never depend on any of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from coattest_build.explain.describe import describe_image
from coattest_build.formats.signature import make_section
from support.build.eif_program import eif
from support.build.found_images import nitro, nitro_application, nitro_boot
from support.build.images import SIGNATURE, pcr
from support.verify.signing_keys import certify

NOW = datetime.now(timezone.utc)
HASHES = {"P-256": (ec.SECP256R1(), hashes.SHA256()), "P-384": (ec.SECP384R1(), hashes.SHA384())}
HASHES["P-521"] = (ec.SECP521R1(), hashes.SHA512())
PCR0 = pcr(b"kernel" * 100, b"reboot=k panic=30", nitro_boot(), nitro_application())
BAG = b"Bag Attributes\n    localKeyID: 01 00\nsubject=CN = x\n"


def signed(curve: str) -> tuple[x509.Certificate, bytes]:
    """A certificate on a curve, and a section that it made for the image of nitro-cli."""
    kind, digest = HASHES[curve]
    key = ec.generate_private_key(kind)
    certificate = certify(key, start=NOW - timedelta(days=1))
    section = make_section(
        certificate, bytes.fromhex(PCR0), lambda data: key.sign(data, ec.ECDSA(digest)), NOW
    )
    return certificate, section


def with_pem(section: bytes, pem: bytes) -> bytes:
    """The section with another spelling of its PEM."""
    (entry,) = cbor2.loads(section)
    return cbor2.dumps([entry | {"signing_certificate": list(pem)}])


def image(path: Path, section: bytes) -> Path:
    """The image of nitro-cli with this signature section."""
    spec = nitro()
    spec.sections.append((SIGNATURE, section))
    path.write_bytes(spec.build())
    return path


CHAIN = signed("P-384")[0].public_bytes(Encoding.PEM)
SPELLINGS = {
    "as it is": (lambda pem: pem, None),
    "no last line end": (lambda pem: pem.rstrip(b"\n"), None),
    "blank lines after it": (lambda pem: pem + b"\n\n\n", "blank lines"),
    "CRLF": (lambda pem: pem.replace(b"\n", b"\r\n"), "CRLF"),
    "a preamble": (lambda pem: b"Certificate:\n    Data:\n        Version: 3\n" + pem, "text around"),
    "bag attributes": (lambda pem: BAG + pem, "bag attributes"),
    "a chain": (lambda pem: pem + CHAIN, "2 certificates; PCR8 is the first one's"),
    "a chain with bag attributes and CRLF": (
        lambda pem: (BAG + pem + BAG + CHAIN).replace(b"\n", b"\r\n"),
        "2 certificates",
    ),
}


@pytest.mark.parametrize("curve", HASHES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_the_first_certificate_counts_however_it_is_spelled(tmp_path: Path, name: str, curve: str) -> None:
    """The signature holds, PCR8 is the first certificate's, and what is around it is a note."""
    certificate, section = signed(curve)
    spell, said = SPELLINGS[name]
    path = image(tmp_path / "image.eif", with_pem(section, spell(certificate.public_bytes(Encoding.PEM))))
    description = describe_image(path, now=NOW, files=False)
    assert description.findings == ()
    assert description.measurements.pcr8 == pcr(certificate.public_bytes(Encoding.DER))
    assert description.measurements.pcr0 == PCR0
    assert description.signature is not None
    notes = " ".join(description.signature.notes)
    assert said in notes if said else not notes


UNREADABLE = {
    "nothing": b"",
    "no CBOR": b"\xff\xff",
    "a text": cbor2.dumps("signed"),
    "no certificate": cbor2.dumps([{"signing_certificate": list(b"none"), "signature": []}]),
    "far too large": bytes(3 << 20),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_signature_leaves_the_registers_alone(tmp_path: Path, name: str) -> None:
    """PCR0 to 2 are printed, PCR8 is not, and exit 1 of both commands says what cannot be read."""
    path = image(tmp_path / "image.eif", UNREADABLE[name])
    for verb in ("measure", "describe"):
        done = eif(verb, path, "--json")
        assert done.returncode == 1
        assert str(path) in done.stderr
        document = json.loads(done.stdout)
        assert document["Measurements"]["PCR0"] == PCR0
        assert "PCR8" not in document["Measurements"]
    assert document["signature"]["ok"] is False


def test_a_signature_for_another_image_shows_pcr8_and_what_does_not_hold(tmp_path: Path) -> None:
    """describe prints PCR8 of the certificate, and that it was made for another PCR0."""
    certificate, section = signed("P-384")
    spec = nitro(kernel=b"other")
    spec.sections.append((SIGNATURE, section))
    path = tmp_path / "image.eif"
    path.write_bytes(spec.build())
    description = describe_image(path, now=NOW, files=False)
    assert [finding.code for finding in description.findings] == ["signature-pcr0"]
    assert description.measurements.pcr8 == pcr(certificate.public_bytes(Encoding.DER))
