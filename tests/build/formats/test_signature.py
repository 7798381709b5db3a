"""PCR8: the signature section's encoding, and its check."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from coattest.errors import FoundFalse
from coattest_build.formats import signature
from coattest_build.formats.eif import ImageError
from coattest_build.formats.signature import check_signature, make_section, parse_signature
from support.build.images import pcr
from support.verify.signing_keys import NOW, PCR0, Key, certify, pem, signer


@pytest.fixture(scope="module")
def section(key: Key, certificate: x509.Certificate) -> bytes:
    """A signature section for PCR0."""
    return make_section(certificate, PCR0, signer(key), NOW)


def test_encoding_is_awss(section: bytes, certificate: x509.Certificate) -> None:
    """A generic CBOR reader finds AWS's structs: arrays of integers, in AWS's order, COSE untagged."""
    (entry,) = cbor2.loads(section)
    assert list(entry) == ["signing_certificate", "signature"]
    assert bytes(entry["signing_certificate"]) == pem(certificate)
    assert isinstance(entry["signature"], list)
    protected, unprotected, payload, raw = cbor2.loads(bytes(entry["signature"]))
    assert cbor2.loads(protected) == {1: -35}
    assert unprotected == {}
    assert list(cbor2.loads(payload).items()) == [("register_index", 0), ("register_value", list(PCR0))]
    assert len(raw) == 96
    assert cbor2.dumps(cbor2.loads(section)) == section


def test_another_implementation_verifies(section: bytes, key: Key) -> None:
    """pycose accepts the COSE_Sign1 with the certificate's key."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pycose.keys import EC2Key
        from pycose.messages import Sign1Message
    numbers = key.public_key().public_numbers()
    envelope = bytes(cbor2.loads(section)[0]["signature"])
    message = Sign1Message.from_cose_obj(cbor2.loads(envelope), True)
    message.key = EC2Key(crv="P_384", x=numbers.x.to_bytes(48, "big"), y=numbers.y.to_bytes(48, "big"))
    assert message.verify_signature()


def test_foreign_section_is_accepted(key: Key, certificate: x509.Certificate) -> None:
    """A section that was made with generic libraries, as AWS's tools make it, parses and holds."""
    foreign = _foreign(key, certificate)
    parsed = parse_signature(foreign)
    assert check_signature(parsed, PCR0, NOW) == ()
    assert parsed.certificate == certificate
    assert parsed.pcr8 == pcr(certificate.public_bytes(serialization.Encoding.DER))


def _foreign(
    key: Key,
    certificate: x509.Certificate,
    *,
    payload: object = None,
    protected: object = None,
    unprotected: object = None,
    certificate_pem: bytes | None = None,
    wrap: Callable[[object], object] = lambda entry: [entry],
) -> bytes:
    """A section made with cbor2, every part of which can be bent."""
    head = cbor2.dumps({1: -35} if protected is None else protected)
    info = {"register_index": 0, "register_value": list(PCR0)} if payload is None else payload
    body = cbor2.dumps(info)
    der = key.sign(cbor2.dumps(["Signature1", head, b"", body]), ec.ECDSA(hashes.SHA384()))
    r, s = signature.decode_dss_signature(der)
    envelope = cbor2.dumps([head, unprotected or {}, body, r.to_bytes(48, "big") + s.to_bytes(48, "big")])
    entry = {
        "signing_certificate": list(pem(certificate) if certificate_pem is None else certificate_pem),
        "signature": list(envelope),
    }
    return cbor2.dumps(wrap(entry))


MALFORMED: dict[str, Callable[[Key, x509.Certificate], bytes]] = {
    "nothing": lambda _k, _c: b"",
    "no signature": lambda k, c: _foreign(k, c, wrap=lambda _entry: []),
    "two signatures": lambda k, c: _foreign(k, c, wrap=lambda entry: [entry, entry]),
    "no array around it": lambda k, c: _foreign(k, c, wrap=lambda entry: entry),
    "keys in another order": lambda k, c: _foreign(
        k,
        c,
        wrap=lambda entry: [dict(reversed(entry.items()))],  # type: ignore[attr-defined]
    ),
    "byte strings in place of arrays": lambda k, c: _foreign(
        k,
        c,
        wrap=lambda entry: [{name: bytes(value) for name, value in entry.items()}],  # type: ignore[attr-defined]
    ),
    "one key more": lambda k, c: _foreign(k, c, wrap=lambda entry: [{**entry, "x": 1}]),  # type: ignore[dict-item]
    "trailing bytes": lambda k, c: _foreign(k, c) + b"\0",
    "an unprotected header": lambda k, c: _foreign(k, c, unprotected={4: b"kid"}),
    "two protected headers": lambda k, c: _foreign(k, c, protected={1: -35, 4: b"kid"}),
    "a positive algorithm": lambda k, c: _foreign(k, c, protected={1: 35}),
    "another register": lambda k, c: _foreign(
        k, c, payload={"register_index": 1, "register_value": list(PCR0)}
    ),
    "a short register": lambda k, c: _foreign(
        k, c, payload={"register_index": 0, "register_value": [1] * 47}
    ),
    "a long register": lambda k, c: _foreign(k, c, payload={"register_index": 0, "register_value": [1] * 49}),
    "an integer that is no byte": lambda k, c: _foreign(
        k, c, payload={"register_index": 0, "register_value": [256] * 48}
    ),
    "a register as a byte string": lambda k, c: _foreign(
        k, c, payload={"register_index": 0, "register_value": PCR0}
    ),
    "a certificate that is none": lambda k, c: _foreign(k, c, certificate_pem=b"-----BEGIN"),
    "text before the certificate": lambda k, c: _foreign(k, c, certificate_pem=b"CN = x\n" + pem(c)),
    "two certificates": lambda k, c: _foreign(k, c, certificate_pem=pem(c) + pem(c)),
    "an integer that is not in its shortest form": lambda k, c: _foreign(k, c).replace(
        b"\x81\xa2", b"\x98\x01\xa2", 1
    ),
    "an indefinite array": lambda k, c: b"\x9f" + _foreign(k, c)[1:] + b"\xff",
    "an array of 2**64 - 1": lambda _k, _c: b"\x81\xa2\x73signing_certificate\x9b" + b"\xff" * 8,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_parser_refuses(name: str, key: Key, certificate: x509.Certificate) -> None:
    """Whatever AWS's writer does not make is refused, even where its signature is right."""
    with pytest.raises(ImageError) as caught:
        parse_signature(MALFORMED[name](key, certificate))
    assert caught.value.code == "eif-signature"


def reasons(section: bytes, pcr0: bytes = PCR0, now: datetime = NOW) -> set[str]:
    """The codes of all findings."""
    return {finding.code for finding in check_signature(parse_signature(section), pcr0, now)}


def test_a_small_number_in_two_bytes_is_refused(section: bytes) -> None:
    """``18 0a`` for 10, the newline that PEM has: its last byte alone looks like the shortest form."""
    newline = section.index(b"\x0a", section.index(b"signing_certificate"))
    longer = section[:newline] + b"\x18\x0a" + section[newline + 1 :]
    assert cbor2.loads(longer) == cbor2.loads(section)
    with pytest.raises(ImageError, match="shortest form"):
        parse_signature(longer)


def test_signature_holds(section: bytes) -> None:
    """A fresh signature over the image's PCR0 has no findings."""
    assert reasons(section) == set()


def test_signature_of_another_image(section: bytes) -> None:
    """A signature that was moved to another image does not hold there."""
    assert reasons(section, bytes(48)) == {"signature-pcr0"}


def test_expired_and_future_certificates(section: bytes) -> None:
    """The certificate must be in date at the time of the check."""
    assert reasons(section, now=NOW + timedelta(days=365)) == {"certificate-expired"}
    assert reasons(section, now=NOW - timedelta(days=2)) == {"certificate-not-yet-valid"}


def test_certificate_of_another_key(key: Key) -> None:
    """A certificate whose key did not sign is a finding."""
    other = certify(ec.generate_private_key(ec.SECP384R1()))
    assert reasons(_foreign(key, other)) == {"signature-invalid"}


def test_every_finding_is_reported(key: Key) -> None:
    """Everything that is wrong is reported at once."""
    other = certify(ec.generate_private_key(ec.SECP384R1()), days=2)
    found = reasons(_foreign(key, other), bytes(48), NOW + timedelta(days=9))
    assert found == {"signature-invalid", "signature-pcr0", "certificate-expired"}


def test_algorithm_comes_from_the_key(key: Key, certificate: x509.Certificate) -> None:
    """A signature that names another algorithm than its certificate's key has is refused."""
    assert reasons(_foreign(key, certificate, protected={1: -7})) == {"signature-algorithm"}
    assert reasons(_foreign(key, certificate, protected={1: -65535})) == {"signature-algorithm"}


def test_rsa_certificate_is_a_finding(key: Key) -> None:
    """AWS's format has elliptic curves only."""
    other = certify(rsa.generate_private_key(65537, 2048))
    assert reasons(_foreign(key, other)) == {"certificate-key"}


def test_every_changed_byte_is_noticed(section: bytes) -> None:
    """No byte of the section can change: it no longer parses, or the check fails, or PCR8 is another."""
    original = parse_signature(section).pcr8
    for index in range(len(section)):
        changed = bytearray(section)
        changed[index] ^= 1
        try:
            parsed = parse_signature(bytes(changed))
        except ImageError:
            continue
        assert check_signature(parsed, PCR0, NOW) or parsed.pcr8 != original


@pytest.mark.parametrize(
    ("curve", "digest", "cose", "size"),
    [(ec.SECP256R1(), hashes.SHA256(), -7, 64), (ec.SECP521R1(), hashes.SHA512(), -36, 132)],
)
def test_other_curves(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm, cose: int, size: int) -> None:
    """P-256 and P-521 sign with their own algorithm, as AWS's COSE library does it."""
    key = ec.generate_private_key(curve)
    made = make_section(certify(key), PCR0, signer(key, digest), NOW)
    protected, _, _, raw = cbor2.loads(bytes(cbor2.loads(made)[0]["signature"]))
    assert (cbor2.loads(protected), len(raw)) == ({1: cose}, size)
    assert reasons(made) == set()


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOW + timedelta(days=400), "certificate-expired"),
        (NOW - timedelta(days=9), "certificate-not-yet-valid"),
    ],
)
def test_signing_out_of_date_is_refused(
    key: Key, certificate: x509.Certificate, now: datetime, reason: str
) -> None:
    """No signature is made with a certificate that is not in date."""
    with pytest.raises(FoundFalse) as caught:
        make_section(certificate, PCR0, signer(key), now)
    assert caught.value.code == reason


def test_signing_with_another_key_is_refused(certificate: x509.Certificate) -> None:
    """What the signer returns is checked against the certificate before it is used."""
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(FoundFalse) as caught:
        make_section(certificate, PCR0, signer(other), NOW)
    assert caught.value.code == "signature-invalid"
    with pytest.raises(FoundFalse) as caught:
        make_section(certificate, PCR0, lambda _data: b"no signature", NOW)
    assert caught.value.code == "signature-mismatch"
