"""Other implementations as judges: pycose over the signature, cryptography's own path building over the
chain.
"""

from __future__ import annotations

import itertools
from importlib.metadata import version
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest_verify.attestation import (
    Malformed,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    parse_unverified,
    verify_document,
)
from coattest_verify.attestation.batch import alone
from coattest_verify.attestation.chain import verify_chain
from support.verify.nitro_ca import NOW, TestChain, check, codes, document, make_chain, usual_chain

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"
REAL = sorted((VECTORS / "attestation").glob("*.bin"))
ALL = REAL + sorted((VECTORS / "attestation-negative").glob("*.bin"))
ANY = (UnsafeAnyMeasurement(), UnsafeAllowDebug())
# A signature check alone accepts both: a NitroTPM document, and a dummy that signed itself.
OF_ANOTHER_KIND = (
    "2026-06-18_prod_reclaimprotocol_attestor-core_020ed8bb.bin",
    "1970-01-20_prod_brave_nitriding_b689637d.bin",
)
real = pytest.mark.skipif(not REAL, reason="../shared/vectors is not there")


# --- pycose ------------------------------------------------------------------------------------------------


def pycose_accepts(data: bytes) -> bool:
    """A plain pycose verifier: decode, take the leaf's key, verify ES384. No chain, no fields."""
    pytest.importorskip("pycose", reason="pycose is not installed")
    if int(version("cbor2").split(".")[0]) >= 6:
        pytest.skip("pycose 1.1 does not work with cbor2 6")
    from pycose.keys import EC2Key
    from pycose.keys.curves import P384
    from pycose.messages import CoseMessage

    try:
        message = CoseMessage.decode(data if data[:1] == b"\xd2" else b"\xd2" + data)
        leaf = x509.load_der_x509_certificate(cbor2.loads(message.payload)["certificate"])
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            return False
        numbers = key.public_numbers()
        message.key = EC2Key(crv=P384, x=numbers.x.to_bytes(48, "big"), y=numbers.y.to_bytes(48, "big"))
        return bool(message.verify_signature())
    except Exception:
        return False


@real
@pytest.mark.parametrize("path", ALL, ids=[path.stem for path in ALL])
def test_pycose_agrees_on_every_vector(path: Path) -> None:
    """Signature for signature the same answer; documents of another kind are refused here before that."""
    data = path.read_bytes()
    theirs = pycose_accepts(data)
    if path.name in OF_ANOTHER_KIND:
        assert theirs
        with pytest.raises(Malformed):
            parse_unverified(data)
        return
    verdict = verify_document(data, ANY, now=parse_unverified(data).timestamp)
    assert theirs is not any(finding.code == "signature" for finding in verdict.findings)


@given(st.binary(max_size=100), st.integers(0, 95), st.integers(0, 255), st.booleans())
@settings(max_examples=25, deadline=None)
def test_pycose_agrees_on_generated_documents(
    nonce: bytes, place: int, change: int, indefinite: bool
) -> None:
    """Right and damaged signatures get the same answer from both."""
    data = bytearray(document(nonce=nonce, indefinite=indefinite))
    data[-96 + place] ^= change
    assert pycose_accepts(bytes(data)) is check(bytes(data)).ok is (change == 0)


# --- cryptography's verification ---------------------------------------------------------------------------


def library_accepts(ders: tuple[bytes, ...]) -> bool:
    """x509.verification with web PKI rules for CAs and none for the leaf (which has no names and no AKI)."""
    verification = pytest.importorskip("cryptography.x509.verification")
    if not hasattr(verification, "ExtensionPolicy"):
        pytest.skip("this cryptography has no extension policies (they came with 45)")
    policy = verification.ExtensionPolicy
    certificates = [x509.load_der_x509_certificate(der) for der in ders]
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(certificates[:1]))
        .time(NOW)
        .max_chain_depth(8)
        .extension_policies(ca_policy=policy.webpki_defaults_ca(), ee_policy=policy.permit_all())
    )
    try:
        builder.build_client_verifier().verify(certificates[-1], certificates[1:-1])
    except verification.VerificationError:
        return False
    return True


def _with_identifiers(changes: dict[int, dict[str, object]]) -> TestChain:
    """A chain with the key identifiers that the library wants to see in CAs."""
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(5)]
    wanted: dict[int, dict[str, object]] = {}
    for position, key in enumerate(keys):
        extra: list[tuple[x509.ExtensionType, bool]] = []
        if position < 4:
            extra.append((x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False))
            issuer = keys[max(position - 1, 0)].public_key()
            extra.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False))
        wanted[position] = {"key": key, "extra": tuple(extra), **changes.get(position, {})}
    return make_chain(changes=wanted)


STRANGER = ec.generate_private_key(ec.SECP384R1())
CHAINS: dict[str, dict[int, dict[str, object]]] = {
    "right": {},
    "wrong signature of an intermediate": {2: {"issuer_key": STRANGER}},
    "wrong signature of the leaf": {4: {"issuer_key": STRANGER}},
    "wrong issuer's name": {3: {"issuer_name": "somebody else"}},
    "an intermediate that is no CA": {2: {"ca": False}},
    "path length too short": {1: {"path_length": 1}},
    "an expired intermediate": {2: {"not_after": NOW.replace(hour=11), "not_before": NOW.replace(hour=10)}},
    "a leaf of the future": {4: {"not_before": NOW.replace(hour=13)}},
    "an intermediate without keyCertSign": {3: {"usage": ("digital_signature",)}},
}


@pytest.mark.parametrize("changes", CHAINS.values(), ids=CHAINS)
def test_the_library_agrees_on_chains(changes: dict[int, dict[str, object]]) -> None:
    """Where both have a rule, the chain of a document passes here exactly when cryptography finds a path."""
    chain = _with_identifiers(changes)
    assert check(document(chain), chain=chain).ok is library_accepts(chain.ders) is (not changes)


@real
@pytest.mark.parametrize("path", REAL[::4], ids=[path.stem for path in REAL[::4]])
def test_openssl_style_issuing_agrees_on_real_chains(path: Path) -> None:
    """cryptography's own check of one issuing the next holds for every link that is accepted here."""
    claimed = parse_unverified(path.read_bytes())
    certificates = [x509.load_der_x509_certificate(der) for der in (*claimed.cabundle, claimed.certificate)]
    for issuer, subject in itertools.pairwise(certificates):
        subject.verify_directly_issued_by(issuer)
    verdict = verify_document(path.read_bytes(), ANY, now=claimed.timestamp)
    assert verdict.ok


def test_the_oracles_are_not_asked_about_the_root() -> None:
    """Both oracles accept a forgery below another root: that part of the answer is this package's alone."""
    forged = make_chain()
    assert codes(check(document(forged), chain=usual_chain())) == {"root"}
    assert pycose_accepts(document(forged))
    assert alone(verify_chain(forged.certificate, forged.cabundle, forged.root)).findings == ()
