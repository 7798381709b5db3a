"""The chain: only downwards from the pinned root, each certificate fit for its place."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from coattest_verify.attestation import (
    AWS_NITRO,
    Root,
    UnsafeAnyMeasurement,
    verify_document,
)
from coattest_verify.attestation.encoding.certificates import P384_KEY, CertificateRefused, read_certificate
from coattest_verify.attestation.encoding.der import elements, outline
from support.verify.nitro_ca import (
    NOW,
    TestChain,
    check,
    codes,
    document,
    failed,
    issue,
    links,
    make_chain,
    usual_chain,
)
from support.verify.usage_errors import usage_error

GENUINE = usual_chain()
ATTACKER = make_chain()


def below(bundle: list[bytes], leaf: TestChain) -> bytes:
    """A document signed by another chain's leaf, that brings a bundle of the attacker's choice."""
    return document(leaf, cabundle=bundle)


# --- the root ----------------------------------------------------------------------------------------------


def test_a_chain_below_another_root_is_refused() -> None:
    """A perfect chain below somebody else's root has one fault: the root."""
    assert failed(check(document(ATTACKER), chain=GENUINE)) == {("root", "cabundle[0]")}
    assert failed(check(document(), root=AWS_NITRO)) == {("root", "cabundle[0]")}


def test_the_root_cannot_be_left_out() -> None:
    """No root, or one that is no fingerprint, is the caller's error and never a check that is skipped."""
    with usage_error("bad-expectation"):
        check(document(), root="AWS")
    with usage_error("bad-expectation"):
        verify_document(document(), [UnsafeAnyMeasurement()], now=NOW, root=None)  # type: ignore[arg-type]
    for fingerprint in (b"", bytes(31), bytes(33), "641a", None):
        with pytest.raises(Exception, match="32 bytes"):
            Root("bad", fingerprint)  # type: ignore[arg-type]


def test_the_root_is_pinned_by_its_exact_bytes() -> None:
    """A certificate with the root's name and key, but other bytes, is not the root."""
    again = issue([replace(links()[0], key=GENUINE.keys[0]), *links()[1:]])
    assert failed(check(document(again), chain=GENUINE)) == {("root", "cabundle[0]")}


def test_the_root_comes_first() -> None:
    """The pinned root anywhere else in the bundle does not help."""
    for position in (1, 2, 3, 4):
        bundle = ATTACKER.cabundle
        bundle.insert(position, GENUINE.ders[0])
        assert ("root", "cabundle[0]") in failed(check(below(bundle, ATTACKER), chain=GENUINE))


# --- forged intermediates ----------------------------------------------------------------------------------


def test_intermediates_from_the_document_are_never_trusted() -> None:
    """The classic forgery: the real root first, then the attacker's own CA, as if both were anchors."""
    forged = [GENUINE.ders[0], ATTACKER.ders[0]]
    short = issue([links()[0], replace(links()[4])])
    assert not check(below([GENUINE.ders[0], short.ders[0]], short), chain=GENUINE).ok
    for bundle in (
        [*forged, *ATTACKER.ders[1:4]],
        [GENUINE.ders[0], *ATTACKER.ders[1:4]],
        [*GENUINE.ders[:2], *ATTACKER.ders[2:4]],
        [*GENUINE.ders[:3], ATTACKER.ders[3]],
        [*GENUINE.ders[:4], ATTACKER.ders[3]],
        GENUINE.cabundle,
        [GENUINE.ders[0]],
    ):
        assert "chain" in codes(check(below(bundle, ATTACKER), chain=GENUINE)), len(bundle)


def test_a_link_needs_the_issuers_signature() -> None:
    """The right issuer's name over the wrong key's signature is refused, at every link."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    for position in (1, 2, 3, 4):
        chain = make_chain(changes={position: {"issuer_key": stranger}})
        field = "certificate" if position == 4 else f"cabundle[{position}]"
        assert failed(check(document(chain), chain=chain)) == {("chain", field)}


def test_a_link_needs_the_issuers_name() -> None:
    """The right key's signature under another issuer's name is refused, at every link."""
    for position in (1, 2, 3, 4):
        chain = make_chain(changes={position: {"issuer_name": "somebody else"}})
        field = "certificate" if position == 4 else f"cabundle[{position}]"
        verdict = check(document(chain), chain=chain)
        assert [(f.code, f.where, f.found) for f in verdict.findings] == [
            ("chain", field, "a different issuer's name")
        ]


def test_a_leaf_cannot_issue() -> None:
    """Whoever holds an enclave's certificate and key cannot make another one below it."""
    made = links()
    extended = issue([*made, replace(made[4], name="forged")])
    verdict = check(document(extended), chain=extended)
    assert ("certificate", "cabundle[4].basicConstraints") in failed(verdict)
    assert ("certificate", "cabundle[4].keyUsage") in failed(verdict)


def test_order_and_completeness_of_the_bundle() -> None:
    """A bundle in another order, with a gap, or with a certificate twice is refused."""
    root, *rest = GENUINE.cabundle
    for bundle in ([root, *rest[::-1]], rest, [root, *rest[1:]], [root, rest[0], rest[2]], [*rest, root]):
        assert not check(document(cabundle=bundle)).ok
    assert ("certificate", "cabundle[1]") in failed(check(document(cabundle=[root, root, *rest])))
    assert ("certificate", "certificate") in failed(check(document(certificate=GENUINE.ders[3])))


def test_shorter_chains_that_hold_pass() -> None:
    """How many CAs there are is AWS's choice: a chain of root and leaf holds, one with five CAs as well."""
    made = links()
    short = issue([made[0], made[4]])
    assert check(document(short), chain=short).ok
    unlimited = [replace(link, path_length=None) for link in made[:4]]
    longer = issue([*unlimited, replace(made[3], name="fifth"), made[4]])
    assert check(document(longer), chain=longer).ok


# --- what each certificate must be -------------------------------------------------------------------------

WRONG: dict[str, tuple[int, dict[str, Any], str]] = {
    "a CA without basicConstraints": (2, {"constraints": False}, "cabundle[2].basicConstraints"),
    "a CA that says it is none": (2, {"ca": False}, "cabundle[2].basicConstraints"),
    "basicConstraints not critical": (2, {"constraints_critical": False}, "cabundle[2].basicConstraints"),
    "a root without basicConstraints": (0, {"constraints": False}, "cabundle[0].basicConstraints"),
    "a CA without keyUsage": (1, {"usage": None}, "cabundle[1].keyUsage"),
    "a CA without keyCertSign": (1, {"usage": ("digital_signature", "crl_sign")}, "cabundle[1].keyUsage"),
    "a CA's keyUsage not critical": (1, {"usage_critical": False}, "cabundle[1].keyUsage"),
    "a leaf without basicConstraints": (4, {"constraints": False}, "certificate.basicConstraints"),
    "a leaf that is a CA": (4, {"ca": True}, "certificate.basicConstraints"),
    "a leaf without keyUsage": (4, {"usage": None}, "certificate.keyUsage"),
    "a leaf that signs certificates": (
        4,
        {"usage": ("digital_signature", "key_cert_sign")},
        "certificate.keyUsage",
    ),
    "a leaf that does not sign": (4, {"usage": ("key_encipherment",)}, "certificate.keyUsage"),
    "a leaf that agrees on keys": (4, {"usage": ("key_agreement", "encipher_only")}, "certificate.keyUsage"),
    "a CA that agrees on keys": (2, {"usage": ("key_agreement", "encipher_only")}, "cabundle[2].keyUsage"),
    "a path length of 1 above two CAs": (1, {"path_length": 1}, "cabundle[1].pathLenConstraint"),
    "a path length of 0 above two CAs": (1, {"path_length": 0}, "cabundle[1].pathLenConstraint"),
    "a path length of 0 above one CA": (2, {"path_length": 0}, "cabundle[2].pathLenConstraint"),
    "a root with a path length of 2": (0, {"path_length": 2}, "cabundle[0].pathLenConstraint"),
    "an unknown critical extension": (
        3,
        {"extra": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)},
        "cabundle[3].extensions",
    ),
    "critical name constraints": (
        3,
        {"extra": ((x509.NameConstraints([x509.DNSName("a.test")], None), True),)},
        "cabundle[3].extensions",
    ),
    "a critical extension in the leaf": (
        4,
        {"extra": ((x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")]), True),)},
        "certificate.extensions",
    ),
    "an intermediate on P-256": (2, {"curve": ec.SECP256R1()}, "cabundle[2].subjectPublicKeyInfo"),
    "an intermediate on P-521": (2, {"curve": ec.SECP521R1()}, "cabundle[2].subjectPublicKeyInfo"),
    "another curve of 384 bits": (2, {"curve": ec.BrainpoolP384R1()}, "cabundle[2].subjectPublicKeyInfo"),
    "SHA-256 in an intermediate": (2, {"digest": hashes.SHA256()}, "cabundle[2].signatureAlgorithm"),
    "SHA-512 in the leaf": (4, {"digest": hashes.SHA512()}, "certificate.signatureAlgorithm"),
    "SHA-256 in the root": (0, {"digest": hashes.SHA256()}, "cabundle[0].signatureAlgorithm"),
}


@pytest.mark.parametrize(("position", "change", "field"), WRONG.values(), ids=WRONG)
def test_a_certificate_must_be_fit_for_its_place(position: int, change: dict[str, Any], field: str) -> None:
    """Each fault is named with its certificate, though every signature and date of the chain is right."""
    chain = make_chain(changes={position: change})
    verdict = check(document(chain), chain=chain)
    assert ("certificate", field) in failed(verdict)
    assert codes(verdict) == {"certificate"}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.BrainpoolP384R1(), ec.SECP521R1()])
def test_a_leaf_on_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    """A document signed by a key that is not on P-384 is refused for the key, whatever the signature."""
    chain = make_chain(changes={4: {"curve": curve}})
    signer = usual_chain()
    data = document(signer, certificate=chain.certificate, cabundle=chain.cabundle)
    assert ("certificate", "certificate.subjectPublicKeyInfo") in failed(check(data, chain=chain))


def test_an_rsa_leaf_is_refused() -> None:
    """A key of another kind altogether is refused, by its identifier."""
    chain = make_chain(changes={4: {"key": rsa.generate_private_key(65537, 2048)}})
    data = document(usual_chain(), certificate=chain.certificate, cabundle=chain.cabundle)
    assert ("certificate", "certificate.subjectPublicKeyInfo") in failed(check(data, chain=chain))


FINE: dict[str, tuple[int, dict[str, Any]]] = {
    "the leaf's keyUsage may be critical": (4, {"usage_critical": True}),
    "the leaf's basicConstraints need not be critical": (4, {"constraints_critical": False}),
    "larger path lengths hold as well": (1, {"path_length": 7}),
    "an unknown extension that is not critical": (
        2,
        {"extra": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False),)},
    ),
}


@pytest.mark.parametrize(("position", "change"), FINE.values(), ids=FINE)
def test_what_a_certificate_may_be(position: int, change: dict[str, Any]) -> None:
    """What RFC 5280 leaves open, and real chains have or could have, passes."""
    chain = make_chain(changes={position: change})
    assert check(document(chain), chain=chain).findings == ()


# --- dates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(5))
def test_every_certificate_must_be_in_date(position: int) -> None:
    """Expired and not yet valid are refused for the root, each CA and the leaf, at the given time only."""
    field = "certificate" if position == 4 else f"cabundle[{position}]"
    second = timedelta(seconds=1)
    ends = make_chain(changes={position: {"not_after": NOW}})
    assert check(document(ends), chain=ends).ok
    assert failed(check(document(ends), chain=ends, now=NOW + second)) == {("certificate-dates", field)}
    begins = make_chain(changes={position: {"not_before": NOW}})
    assert check(document(begins), chain=begins).ok
    early = failed(check(document(begins), chain=begins, now=NOW - second))
    assert early == {("certificate-dates", field), ("future-timestamp", "timestamp")}


def test_all_certificates_out_of_date_are_named() -> None:
    """Years later, every certificate but the root has run out, and each is named with its dates."""
    verdict = check(document(), now=NOW + timedelta(days=365))
    expected = {("certificate-dates", f"cabundle[{i}]") for i in (1, 2, 3)}
    assert failed(verdict) == expected | {("certificate-dates", "certificate")}
    assert "2026-01-15T14:55:00+00:00" in next(f.found for f in verdict.findings if f.where == "certificate")


def test_only_what_is_out_of_date_is_named() -> None:
    """A certificate in its last or first second is not named beside one that is out of date."""
    gone = {"not_before": NOW - timedelta(hours=2), "not_after": NOW - timedelta(hours=1)}
    for edge in ({"not_after": NOW}, {"not_before": NOW}):
        chain = make_chain(changes={2: gone, 3: edge})
        assert failed(check(document(chain), chain=chain)) == {("certificate-dates", "cabundle[2]")}


def test_the_verdict_says_until_when_the_chain_holds() -> None:
    """chain_expires is the earliest end of the chain; there is none for a chain that does not hold."""
    assert check(document()).chain_expires == NOW + timedelta(hours=2, minutes=55)
    early = make_chain(changes={2: {"not_after": NOW + timedelta(minutes=1)}})
    assert check(document(early), chain=early).chain_expires == NOW + timedelta(minutes=1)
    assert check(document(ATTACKER), chain=GENUINE).chain_expires is None


# --- encodings ---------------------------------------------------------------------------------------------

LEAF = GENUINE.certificate
_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040303")
_SHA256_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")
DAMAGED = {
    "a byte after the end": LEAF + b"\x00",
    "the last byte missing": LEAF[:-1],
    "no DER at all": b"\xff" * 300,
    "a single byte": b"\x30",
    "PEM": b"-----BEGIN CERTIFICATE-----\n",
    "a length one byte longer than needed": b"\x30\x83\x00" + LEAF[2:],
    "an indefinite length": b"\x30\x80" + LEAF[4:] + b"\x00\x00",
    "a version 2 certificate": LEAF.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), 1),
    "a set in place of the sequence": b"\x31" + LEAF[1:],
    "two certificates": LEAF + LEAF,
}


@pytest.mark.parametrize("der", DAMAGED.values(), ids=DAMAGED)
def test_a_certificate_is_der_and_nothing_else(der: bytes) -> None:
    """Other encodings are refused with the one finding type, in the document and by itself."""
    assert ("certificate", "certificate") in failed(check(document(certificate=der[:1024])))
    with pytest.raises(CertificateRefused):
        read_certificate(der, "certificate", authority=False)


def _nested(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def test_the_outline_refuses_other_shapes_by_itself() -> None:
    """What cryptography would refuse as well is refused before it: one reading, not the laxer of two."""
    ((_, start, end),) = elements(LEAF, 0, len(LEAF))
    parts = [LEAF[a:b] for a, _, b in elements(LEAF, start, end)]
    ((_, inner, _),) = elements(parts[0], 0, len(parts[0]))
    fields = parts[0][inner:]
    assert outline(_nested(*parts)) == outline(LEAF)
    assert end == len(LEAF)
    for other in (
        *(DAMAGED[name] for name in DAMAGED if name not in ("no DER at all", "PEM")),
        _nested(*parts, b"\x05\x00"),
        _nested(*parts[:2]),
        _nested(b"\x31" + parts[0][1:], *parts[1:]),
        _nested(_nested(fields[5:]), *parts[1:]),
        _nested(_nested(fields[:80]), *parts[1:]),
    ):
        with pytest.raises((ValueError, IndexError)):
            outline(other)


def test_the_inner_and_the_outer_algorithm_are_both_looked_at() -> None:
    """RFC 5280 section 4.1.1.2: they must be equal, and here both must be ecdsa-with-SHA384."""
    assert LEAF.count(_ALGORITHM) == 2
    inner = LEAF.replace(_ALGORITHM, _SHA256_ALGORITHM, 1)
    head, _, tail = LEAF.rpartition(_ALGORITHM)
    outer = head + _SHA256_ALGORITHM + tail
    for der, field in ((inner, "certificate.signature"), (outer, "certificate.signatureAlgorithm")):
        with pytest.raises(CertificateRefused) as caught:
            read_certificate(der, "certificate", authority=False)
        assert [finding.where for finding in caught.value.findings] == [field]


def test_leading_zeros_belong_to_the_coordinates() -> None:
    """Keys whose x or y begins with a zero byte verify, a CA's and the leaf's; without it there is no key."""
    short_x, short_y = (ec.derive_private_key(scalar, ec.SECP384R1()) for scalar in (197, 176))
    assert short_x.public_key().public_numbers().x < 1 << 376
    assert short_y.public_key().public_numbers().y < 1 << 376
    for authority, leaf in ((short_x, short_y), (short_y, short_x)):
        chain = make_chain(changes={3: {"key": authority}, 4: {"key": leaf}})
        assert check(document(chain), chain=chain).ok
    start = LEAF.index(P384_KEY) + len(P384_KEY)
    for gap in (start, start + 48):
        with pytest.raises(CertificateRefused):
            read_certificate(LEAF[:gap] + LEAF[gap + 1 :], "certificate", authority=False)


def test_a_point_that_is_not_on_the_curve_is_refused() -> None:
    """An invalid point in a certificate is refused when the key is read."""
    key = bytes.fromhex("03620004")
    start = LEAF.index(key) + len(key)
    for point in (bytes(96), b"\xff" * 96, LEAF[start : start + 95] + bytes([LEAF[start + 95] ^ 1])):
        with pytest.raises(CertificateRefused):
            read_certificate(LEAF[:start] + point + LEAF[start + 96 :], "certificate", authority=False)


def test_every_prefix_of_a_certificate_is_refused() -> None:
    """A certificate cut short anywhere gives the one error type."""
    for size in range(len(LEAF)):
        with pytest.raises(CertificateRefused):
            read_certificate(LEAF[:size], "certificate", authority=False)


@pytest.mark.parametrize(
    ("length", "head"), [(0, "3000"), (127, "307f"), (128, "308180"), (255, "3081ff"), (256, "30820100")]
)
def test_lengths_of_der_are_minimal(length: int, head: str) -> None:
    """Each length has one spelling; a wider one, and content that is a byte short, are refused."""
    element = bytes.fromhex(head) + bytes(length)
    start = len(bytes.fromhex(head))
    assert elements(element, 0, len(element)) == [(0, start, len(element))]
    assert elements(b"\x05\x00" + element, 2, 2 + len(element)) == [(2, 2 + start, 2 + len(element))]
    longer = [b"\x30\x81" + bytes([length & 0xFF]), b"\x30\x82" + length.to_bytes(2, "big")]
    longer += [b"\x30\x83" + length.to_bytes(3, "big"), b"\x30\x80"]
    for other in longer:
        if other != bytes.fromhex(head):
            with pytest.raises(ValueError, match=r"DER|past the end"):
                elements(other + bytes(length), 0, len(other) + length)
    with pytest.raises((ValueError, IndexError), match=r"past the end|out of range"):
        elements(element[:-1], 0, len(element) - 1)
    with pytest.raises(ValueError, match=r"past the end"):
        elements(element, 0, len(element) - 1)
