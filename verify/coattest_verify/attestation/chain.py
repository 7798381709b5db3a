"""The certificate chain of a document, verified downwards from the pinned root, and a cache of verified
chains.

Nothing that comes with the document is trusted: cabundle[0] must *be* the pinned root (SHA-256 of its
DER), and each further certificate must carry its predecessor's signature and name. No other path is
tried.

Signatures of a chain never change, dates pass: the cache keeps what was verified under the exact bytes of
the chain and the root's fingerprint, and the dates of every certificate are compared at each use. It keeps
the chain's upper parts too: enclaves of one zone share all but the last two certificates.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from coattest.findings import Finding
from coattest_verify.attestation.batch import Steps
from coattest_verify.attestation.encoding.certificates import (
    Certificate,
    CertificateRefused,
    read_certificate,
)
from coattest_verify.attestation.root import Root
from coattest_verify.attestation.rules import (
    BAD_CERTIFICATE,
    BROKEN_CHAIN,
    OUT_OF_DATE,
    UNTRUSTED_ROOT,
    bad_expectation,
)

ES384: Final = ec.ECDSA(hashes.SHA384())
"""ECDSA with SHA-384: the only algorithm that this package verifies with."""

CACHE_SIZE: Final = 1024
"""Chains in a cache by default: at most about 8 MB; an enclave has one chain per three hours."""

_NEVER: Final = datetime(1, 1, 1, tzinfo=timezone.utc)
_Key: TypeAlias = "tuple[bytes, bytes, tuple[bytes, ...]]"
_Part: TypeAlias = "tuple[bytes, tuple[bytes, ...]]"


class CertificateChain(NamedTuple):
    """A chain as far as it can be read, and what is wrong with it. The caller judges the dates.

    ``certificates`` are those that are fit for their place, from root to leaf; ``leaf`` is None when it
    is not. Without ``findings`` the chain is complete and every link holds. ``not_before`` and ``not_after``
    bound the time in which all of ``certificates`` are in date.
    """

    certificates: tuple[Certificate, ...]
    leaf: Certificate | None
    findings: tuple[Finding, ...]
    not_before: datetime
    not_after: datetime

    def date_findings(self, now: datetime) -> tuple[Finding, ...]:
        """One finding for every certificate that is not in date at ``now``; both ends count as in date.

        Source: RFC 5280 section 4.1.2.5.
        """
        if self.not_before <= now <= self.not_after:
            return ()
        return tuple(
            OUT_OF_DATE.finding(
                certificate.field,
                f"in date at {now.isoformat()}",
                f"{certificate.not_before.isoformat()} to {certificate.not_after.isoformat()}",
            )
            for certificate in self.certificates
            if not certificate.not_before <= now <= certificate.not_after
        )


class ChainCache:
    """A bounded cache of verified chains, least recently used out first. Safe to share between threads.

    Only chains that verified are stored, so filling it takes certificates below the pinned root.
    """

    def __init__(self, size: int = CACHE_SIZE) -> None:
        if size < 1:
            raise bad_expectation("a cache holds at least one chain", where="ChainCache")
        self._size = size
        self._chains: OrderedDict[_Key, CertificateChain] = OrderedDict()
        self._parts: OrderedDict[_Part, tuple[_Part, tuple[Certificate, ...]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chains)

    def get(self, key: _Key) -> CertificateChain | None:
        """The chain that was verified under exactly these bytes, or None."""
        with self._lock:
            chain = self._chains.get(key)
            if chain is not None:
                self._chains.move_to_end(key)
            return chain

    def part(self, key: _Part) -> tuple[_Part, tuple[Certificate, ...]]:
        """The longest start of this bundle, two certificates or more, that a stored chain has; or nothing.

        The part's own key comes with it: its bytes stand for equal ones, so that each is kept once.
        """
        fingerprint, bundle = key
        with self._lock:
            for length in range(len(bundle), 1, -1):
                found = self._parts.get((fingerprint, bundle[:length]))
                if found is not None:
                    self._parts.move_to_end(found[0])
                    return found
        return (fingerprint, ()), ()

    def put(self, key: _Key, chain: CertificateChain) -> None:
        """Store a chain that verified, and its parts."""
        fingerprint, _, bundle = key
        with self._lock:
            self._chains[key] = chain
            for length in range(2, len(bundle) + 1):
                part = (fingerprint, bundle[:length])
                if part not in self._parts:
                    self._parts[part] = (part, chain.certificates[:length])
            for stored in (self._chains, self._parts):
                while len(stored) > self._size:
                    stored.popitem(last=False)


def verify_chain(
    leaf: bytes, bundle: Sequence[bytes], root: Root, cache: ChainCache | None = None
) -> Steps[CertificateChain]:
    """The chain from ``root`` over ``bundle`` (root first) to ``leaf``, all DER, and what is wrong with it.

    Dates are not judged here: see CertificateChain.date_findings. Reading and verifying are steps.
    """
    ders = tuple(bundle)
    verified: tuple[Certificate, ...] = ()
    if cache is not None:
        cached = cache.get((root.sha256, leaf, ders))
        if cached is not None:
            return cached
        (_, start), verified = cache.part((root.sha256, ders))
        ders = start + ders[len(start) :]
    findings: list[Finding] = []
    if not verified:  # the key of what was verified names the root that it was verified under
        fingerprint = hashlib.sha256(ders[0]).digest() if ders else b""
        if fingerprint != root.sha256:
            wanted = f"{root.name}, SHA-256 {root.sha256.hex()}"
            findings.append(UNTRUSTED_ROOT.finding("cabundle[0]", wanted, f"SHA-256 {fingerprint.hex()}"))
    certificates = _read(leaf, ders, findings, verified, pinned=not findings)
    yield
    if cache is not None and len(verified) < len(ders) - 1:  # by now another document may have shown more
        _, verified = cache.part((root.sha256, ders))
    findings.extend(_link_findings(certificates[max(len(verified) - 1, 0) :]))
    findings.extend(_path_findings(certificates))
    readable = tuple([certificate for certificate in certificates if certificate is not None])
    chain = CertificateChain(
        readable,
        certificates[-1],
        tuple(findings),
        max([certificate.not_before for certificate in readable], default=_NEVER),
        min([certificate.not_after for certificate in readable], default=_NEVER),
    )
    if cache is not None and not findings:
        cache.put((root.sha256, leaf, ders), chain)
    return chain


def _read(
    leaf: bytes,
    bundle: tuple[bytes, ...],
    findings: list[Finding],
    verified: Sequence[Certificate],
    *,
    pinned: bool,
) -> list[Certificate | None]:
    """Every certificate from root to leaf, None where one is refused (which adds to ``findings``).

    ``verified`` are the first ones, of a chain that held. ``pinned``: the first one is the pinned root, byte
    for byte.
    """
    certificates: list[Certificate | None] = [*verified]
    for index in range(len(verified), len(bundle) + 1):
        authority = index < len(bundle)
        der = bundle[index] if authority else leaf
        field = f"cabundle[{index}]" if authority else "certificate"
        if der in bundle[:index]:
            findings.append(
                BAD_CERTIFICATE.finding(field, "each certificate once", "a certificate that appears twice")
            )
        try:
            if index == 0 and pinned:
                certificates.append(_read_root(der))
            else:
                certificates.append(read_certificate(der, field, authority=authority))
        except CertificateRefused as refused:
            findings.extend(refused.findings)
            certificates.append(None)
    return certificates


@functools.lru_cache(maxsize=8)
def _read_root(der: bytes) -> Certificate:
    """A pinned root, read once: only the root that the caller chose gets here."""
    return read_certificate(der, "cabundle[0]", authority=True)


def _link_findings(certificates: Sequence[Certificate | None]) -> list[Finding]:
    """Every link that has both ends: the issuer's name, byte for byte, and the issuer's signature."""
    findings: list[Finding] = []
    for issuer, subject in itertools.pairwise(certificates):
        if issuer is None or subject is None:
            continue
        if subject.issuer != issuer.subject:
            expected = f"issued by the subject of {issuer.field}"
            findings.append(BROKEN_CHAIN.finding(subject.field, expected, "a different issuer's name"))
        try:
            issuer.key.verify(subject.signature, subject.signed, ES384)
        except (InvalidSignature, ValueError):
            findings.append(
                BROKEN_CHAIN.finding(subject.field, f"a signature by {issuer.field}", "none that verifies")
            )
    return findings


def _path_findings(certificates: Sequence[Certificate | None]) -> list[Finding]:
    """RFC 5280 section 4.2.1.9: a path length is how many CA certificates may follow before the leaf."""
    findings: list[Finding] = []
    for index, certificate in enumerate(certificates[:-1]):
        following = len(certificates) - 2 - index
        if certificate is None or certificate.path_length is None or certificate.path_length >= following:
            continue
        expected = f"at most {certificate.path_length} CA certificates below"
        findings.append(
            BAD_CERTIFICATE.finding(f"{certificate.field}.pathLenConstraint", expected, str(following))
        )
    return findings
