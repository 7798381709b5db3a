"""Extensions in exact DER, against what cryptography writes and reads."""

from __future__ import annotations

import itertools

import pytest
from cryptography import x509

from coattest_verify.attestation.encoding.certificates import (
    CertificateRefused,
    _judged_extensions,
    _path_length,
    _usage_bits,
    read_certificate,
)
from coattest_verify.attestation.encoding.der import Extension, elements, outline, read_extensions
from support.verify.nitro_ca import make_chain, usual_chain

USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def test_every_key_usage_is_read_as_it_was_written() -> None:
    """All combinations of bits: digitalSignature and keyCertSign are found where they are, and only there."""
    for bits in itertools.product([False, True], repeat=len(USAGES)):
        for late in [(False, False), (True, False), (False, True)] if bits[4] else [(False, False)]:
            if not any((*bits, *late)):
                continue
            named = dict(zip(USAGES, bits, strict=True))
            usage = x509.KeyUsage(**named, encipher_only=late[0], decipher_only=late[1])
            found = _usage_bits(usage.public_bytes())
            assert (bool(found & 0x80), bool(found & 0x04)) == (
                named["digital_signature"],
                named["key_cert_sign"],
            )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "03",
        "0302",
        "030207",
        "03010000",
        "030100",
        "03020780ff",
        "03020680",
        "03020084",
        "03020700",
        "04020780",
        "03030780",
        "0302088000",
        "03020880",
        "0303078000",
        "0304078000ff",
        "030407800080",
        "0302ff80",
    ],
)
def test_key_usage_of_another_shape_is_refused(value: str) -> None:
    """Not a bit string, empty, with bits set beyond its end or zeros at it: never guessed at."""
    with pytest.raises((ValueError, IndexError)):
        _usage_bits(bytes.fromhex(value))


def test_path_lengths_are_read_as_they_were_written() -> None:
    """None and 0 to 127, as cryptography writes them."""
    oid = bytes.fromhex("551d13")
    for limit in (None, *range(128)):
        value = x509.BasicConstraints(ca=True, path_length=limit).public_bytes()
        assert _path_length({oid: Extension(True, value)}) == limit
    assert _path_length({oid: Extension(True, x509.BasicConstraints(False, None).public_bytes())}) is None
    assert _path_length({}) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "30",
        "3001",
        "3003010100",
        "3003010101",
        "30030201ff",
        "30060101ff020180",
        "30070101ff02020080",
        "3003020100",
        "30060101ff010100",
        "30030101ff00",
        "300000",
        "31030101ff",
        "30060101ff0200",
    ],
)
def test_basic_constraints_of_another_shape_are_refused(value: str) -> None:
    """False spelled out, another true, a path length without cA, negative or too long, trailing bytes."""
    with pytest.raises((ValueError, IndexError)):
        _path_length({bytes.fromhex("551d13"): Extension(True, bytes.fromhex(value))})


def _sequence(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return b"\x30" + bytes([len(content)]) + content


OID, TRUE, VALUE = b"\x06\x01\x01", b"\x01\x01\xff", b"\x04\x01\x07"


def test_extensions_are_read() -> None:
    """With and without critical, in their order; none at all is an empty sequence."""
    both = _sequence(_sequence(OID, VALUE), _sequence(b"\x06\x01\x02", TRUE, VALUE))
    assert read_extensions(both) == {b"\x01": Extension(False, b"\x07"), b"\x02": Extension(True, b"\x07")}
    assert read_extensions(b"\x30\x00") == {}


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x31\x00",
        b"\x30\x00\x00",
        _sequence(_sequence(OID, b"\x01\x01\x00", VALUE)),
        _sequence(_sequence(OID, b"\x01\x01\x01", VALUE)),
        _sequence(_sequence(OID, b"\x01\x02\xff\xff", VALUE)),
        _sequence(_sequence(OID)),
        _sequence(_sequence(OID, TRUE)),
        _sequence(_sequence(TRUE, VALUE)),
        _sequence(_sequence(b"\x05\x00", VALUE)),
        _sequence(_sequence(OID, b"\x05\x00")),
        _sequence(_sequence(OID, VALUE, VALUE)),
        _sequence(_sequence(OID, TRUE, TRUE, VALUE)),
        _sequence(_sequence(OID, VALUE), _sequence(OID, VALUE)),
        _sequence(b"\x31" + _sequence(OID, VALUE)[1:]),
        _sequence(OID, VALUE),
    ],
)
def test_extensions_of_another_shape_are_refused(der: bytes) -> None:
    """False spelled out, another true, parts missing, too many or of another tag, an extension twice."""
    with pytest.raises((ValueError, IndexError)):
        read_extensions(der)


@pytest.mark.parametrize("position", range(9))
def test_a_certificate_has_eight_parts_and_nothing_more(position: int) -> None:
    """One more element anywhere in the signed part, or extensions under another tag, is another shape."""
    der = usual_chain().certificate
    ((_, start, end),) = elements(der, 0, len(der))
    (_, fields, tbs_end), _, _ = elements(der, start, end)
    parts = [der[first:last] for first, _, last in elements(der, fields, tbs_end)]
    assert outline(_long(_long(*parts), der[tbs_end:])) == outline(der)
    with pytest.raises((ValueError, IndexError)):
        outline(_long(_long(*parts[:position], b"\x05\x00", *parts[position:]), der[tbs_end:]))
    other_tag = _long(*parts[:7], b"\xa4" + parts[7][1:])
    with pytest.raises(ValueError, match="extensions at its end"):
        outline(_long(other_tag, der[tbs_end:]))
    for missing_or_more in (der[tbs_end:end] + b"\x05\x00", b"", der[tbs_end : tbs_end + 12]):
        with pytest.raises(ValueError, match="unpack"):
            outline(_long(_long(*parts), missing_or_more))
    as_set = b"\x31" + _long(*parts)[1:]
    for other in (_long(as_set, der[tbs_end:]), b"\x31" + der[1:]):
        with pytest.raises(ValueError, match="begins with a sequence"):
            outline(other)


def _long(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def test_certificates_are_outlined_as_cryptography_reads_them() -> None:
    """Names, signed part and extensions of generated certificates are the same bytes in both readings."""
    odd = make_chain(
        changes={2: {"extra": ((x509.SubjectAlternativeName([x509.DNSName("a.test")]), False),)}}
    )
    for der in (*usual_chain().ders, *odd.ders):
        ours, theirs = outline(der), x509.load_der_x509_certificate(der)
        assert ours.signed == theirs.tbs_certificate_bytes
        assert ours.subject == theirs.subject.public_bytes()
        assert ours.issuer == theirs.issuer.public_bytes()
        assert list(read_extensions(ours.extensions).values()) == [
            (extension.critical, extension.value.public_bytes()) for extension in theirs.extensions
        ]


def test_extensions_that_are_remembered_are_judged_for_their_own_place() -> None:
    """The same extensions in a CA's place and in the leaf's, one after the other, in either order."""
    chain = make_chain()
    for authority in (False, True, False, True):
        der = chain.ders[3] if authority else chain.certificate
        assert read_certificate(der, "here", authority=authority).path_length == (0 if authority else None)
        with pytest.raises(CertificateRefused) as caught:
            read_certificate(der, f"there {authority}", authority=not authority)
        assert {finding.where for finding in caught.value.findings} >= {
            f"there {authority}.basicConstraints",
            f"there {authority}.keyUsage",
        }


def test_only_a_few_extensions_are_remembered_and_none_that_are_malformed() -> None:
    """The store is bounded whatever certificates bring, and what is refused once is refused again."""
    _judged_extensions.cache_clear()
    for number in range(300):
        oid = b"\x06\x02\x2a" + bytes([number & 0x7F])
        value = b"\x04\x02\x05" + bytes([number >> 7])
        limit, findings = _judged_extensions(_sequence(_sequence(oid, value)), "here", True)
        assert limit is None
        assert len(findings) == 2
    assert _judged_extensions.cache_info().currsize == 64
    for _ in range(2):
        with pytest.raises(ValueError, match="not one sequence"):
            _judged_extensions(b"\x31\x00", "here", False)
    assert _judged_extensions.cache_info().currsize == 64
