"""Attestation documents and chains of any shape, right and wrong, below a CA that the tests make themselves.

``make_chain`` gives a chain of AWS's shape; each certificate of it can be told to be otherwise (``Link``).
``document`` signs a payload whose every byte the caller may set: the encoder here writes what it is told,
duplicate keys and non-minimal heads included. It uses neither the verifier nor cbor2, so that both can be
judged by it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from coattest_verify.attestation import Expectation, ExpectPcrs, Root, Verdict, verify_document

NOW = datetime(2026, 1, 15, 12, 0, 0, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
PCRS = {index: bytes([index + 1]) * 48 for index in (0, 1, 2, 3, 4)} | {i: bytes(48) for i in range(5, 16)}
MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


# --- CBOR, written as told ---------------------------------------------------------------------------------


class Raw(bytes):
    """Bytes that are CBOR already."""


@dataclass(frozen=True)
class Pairs:
    """A map by its pairs: any order, duplicates, and indefinite length when wanted."""

    pairs: Sequence[tuple[Any, Any]]
    indefinite: bool = False


@dataclass(frozen=True)
class Stream:
    """An array of indefinite length."""

    items: Sequence[Any]


def head(major: int, argument: int, width: int | None = None) -> bytes:
    """A CBOR head; minimal, or with ``width`` bytes of argument (0, 1, 2, 4, 8)."""
    if width is None:
        width = next(
            w for w, limit in ((0, 24), (1, 256), (2, 65536), (4, 2**32), (8, 2**64)) if argument < limit
        )
    if width == 0:
        return bytes([major << 5 | argument])
    return bytes([major << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[width]]) + argument.to_bytes(width, "big")


def cbor(value: Any) -> bytes:  # noqa: PLR0911 - one per kind of value
    """CBOR of a value: minimal heads, everything else as told."""
    if isinstance(value, Raw):
        return bytes(value)
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, Stream):
        return b"\x9f" + b"".join(map(cbor, value.items)) + b"\xff"
    if isinstance(value, (list, tuple)):
        return head(4, len(value)) + b"".join(map(cbor, value))
    pairs = value if isinstance(value, Pairs) else Pairs(tuple(value.items()))
    content = b"".join(cbor(key) + cbor(item) for key, item in pairs.pairs)
    return b"\xbf" + content + b"\xff" if pairs.indefinite else head(5, len(pairs.pairs)) + content


# --- certificates ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """How one certificate is made; the defaults are a CA certificate of AWS's shape."""

    name: str
    not_before: datetime
    not_after: datetime
    path_length: int | None = None
    ca: bool = True
    constraints: bool = True
    constraints_critical: bool = True
    usage: tuple[str, ...] | None = ("digital_signature", "key_cert_sign", "crl_sign")
    usage_critical: bool = True
    curve: ec.EllipticCurve | None = None
    digest: hashes.HashAlgorithm | None = None
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    issuer_name: str | None = None
    key: ec.EllipticCurvePrivateKey | None = None
    issuer_key: ec.EllipticCurvePrivateKey | None = None


@dataclass(frozen=True)
class TestChain:
    """A chain: certificates (DER) from root to leaf, with their private keys, and its root for
    verify_document.
    """

    __test__ = False

    ders: tuple[bytes, ...]
    keys: tuple[ec.EllipticCurvePrivateKey, ...]
    root: Root

    @property
    def certificate(self) -> bytes:
        return self.ders[-1]

    @property
    def cabundle(self) -> list[bytes]:
        return list(self.ders[:-1])

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return self.keys[-1]


def links(now: datetime = NOW) -> list[Link]:
    """Root, regional, zonal, instance, leaf: names, lives and path lengths as AWS's chains have them."""
    return [
        Link("test.nitro-enclaves", now - timedelta(days=2000), now + timedelta(days=9000)),
        Link("regional.test.nitro-enclaves", now - timedelta(days=1), now + timedelta(days=19), 2),
        Link("zonal.test.nitro-enclaves", now - timedelta(hours=12), now + timedelta(days=5), 1),
        Link(
            "i-0123456789abcdef0.test.nitro-enclaves",
            now - timedelta(hours=1),
            now + timedelta(hours=23),
            0,
            usage=("key_cert_sign",),
        ),
        Link(
            f"{MODULE}.test",
            now - timedelta(minutes=5),
            now + timedelta(hours=2, minutes=55),
            ca=False,
            usage=("digital_signature", "content_commitment"),
            usage_critical=False,
        ),
    ]


def make_chain(now: datetime = NOW, changes: Mapping[int, Mapping[str, Any]] | None = None) -> TestChain:
    """A chain of AWS's shape, with ``changes`` by position (0 is the root, 4 the leaf)."""
    made = links(now)
    for position, change in (changes or {}).items():
        made[position] = replace(made[position], **change)
    return issue(made)


@functools.cache
def usual_chain() -> TestChain:
    """The chain that most tests share, valid around NOW."""
    return make_chain()


def sibling(
    chain: TestChain, position: int, changes: Mapping[int, Mapping[str, Any]] | None = None
) -> TestChain:
    """A chain with the certificates of ``chain`` above ``position``, and new ones from there on."""
    made = links()
    for at, change in (changes or {}).items():
        made[at] = replace(made[at], **change)
    above = replace(made[position - 1], key=chain.keys[position - 1])
    below = issue([above, *made[position:]])
    return TestChain(
        (*chain.ders[:position], *below.ders[1:]), (*chain.keys[:position], *below.keys[1:]), chain.root
    )


def issue(made: Sequence[Link]) -> TestChain:
    """Every certificate of the links, each signed by the one before it, the first by itself."""
    ders: list[bytes] = []
    keys: list[ec.EllipticCurvePrivateKey] = []
    for position, link in enumerate(made):
        key = link.key or ec.generate_private_key(link.curve or ec.SECP384R1())
        issuer = made[position - 1] if position else link
        issuer_key = link.issuer_key or (keys[-1] if position else key)
        ders.append(_certificate(link, key, link.issuer_name or issuer.name, issuer_key))
        keys.append(key)
    return TestChain(tuple(ders), tuple(keys), Root("test root", hashlib.sha256(ders[0]).digest()))


def _certificate(
    link: Link, key: ec.EllipticCurvePrivateKey, issuer_name: str, issuer_key: ec.EllipticCurvePrivateKey
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(link.name))
        .issuer_name(_name(issuer_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(link.not_before)
        .not_valid_after(link.not_after)
    )
    if link.constraints:
        limit = link.path_length if link.ca else None
        constraints = x509.BasicConstraints(ca=link.ca, path_length=limit)
        builder = builder.add_extension(constraints, critical=link.constraints_critical)
    if link.usage is not None:
        builder = builder.add_extension(_usage(link.usage), critical=link.usage_critical)
    for extension, critical in link.extra:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, link.digest or hashes.SHA384()).public_bytes(Encoding.DER)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(names: Sequence[str]) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in names for name in every.split()})


# --- documents ---------------------------------------------------------------------------------------------

PROTECTED = bytes.fromhex("a1013822")


def fields(chain: TestChain | None = None, **changes: Any) -> dict[Any, Any]:
    """The fields of a document in AWS's order; ``changes`` replace (or, with ``...``, leave out) some."""
    chain = chain or usual_chain()
    usual: dict[Any, Any] = {
        "module_id": MODULE,
        "digest": "SHA384",
        "timestamp": NOW_MS,
        "pcrs": dict(PCRS),
        "certificate": chain.certificate,
        "cabundle": chain.cabundle,
        "public_key": None,
        "user_data": None,
        "nonce": b"nonce",
    }
    usual.update(changes)
    return {name: value for name, value in usual.items() if value is not ...}


def document(
    chain: TestChain | None = None, *, payload: bytes | None = None, indefinite: bool = True, **changes: Any
) -> bytes:
    """A signed document; ``payload`` replaces the whole payload, ``changes`` replace fields."""
    chain = chain or usual_chain()
    if payload is None:
        payload = cbor(Pairs(tuple(fields(chain, **changes).items()), indefinite=indefinite))
    return envelope(payload, sign(payload, chain.key))


def sign(
    payload: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    protected: bytes = PROTECTED,
    digest: hashes.HashAlgorithm | None = None,
    external: bytes = b"",
) -> bytes:
    """r || s over the Sig_structure of RFC 9052 section 4.4, each as long as the curve's order."""
    signed = cbor(["Signature1", protected, external, payload])
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(digest or hashes.SHA384())))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def envelope(
    payload: bytes,
    signature: bytes,
    *,
    protected: bytes = PROTECTED,
    unprotected: Any = Raw(b"\xa0"),  # noqa: B008 - a constant
    tag: bytes = b"",
) -> bytes:
    """The COSE_Sign1 around a payload, with ``tag`` (bytes of a tag head) before it."""
    return tag + cbor([protected, unprotected, payload, signature])


# --- verification, with what every test needs
# ----------------------------------------------------------------

IMAGE = ExpectPcrs({index: PCRS[index] for index in (0, 1, 2)})


def check(
    data: bytes,
    *expectations: Expectation,
    chain: TestChain | None = None,
    now: datetime = NOW,
    **options: Any,
) -> Verdict:
    """The verdict over a document below a test chain's root, expecting the usual image unless told."""
    root = options.pop("root", None) or (chain or usual_chain()).root
    return verify_document(data, expectations or (IMAGE,), now=now, root=root, **options)


def codes(verdict: Verdict) -> set[str]:
    """The codes of a verdict's findings."""
    return {finding.code for finding in verdict.findings}


def failed(verdict: Verdict) -> set[tuple[str, str]]:
    """Code and field of every finding of a verdict."""
    return {(finding.code, finding.where) for finding in verdict.findings}
