"""Real documents: each passes at its own time, and those that must be refused are, for their reason."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from coattest_verify.attestation import (
    ChainCache,
    ExpectPcrs,
    ExpectPublicKey,
    MaxAge,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    parse_unverified,
    verify_document,
)
from coattest_verify.attestation.files import read_archive_index

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"
REAL = sorted((VECTORS / "attestation").glob("*.bin"))
NEGATIVE = sorted((VECTORS / "attestation-negative").glob("*.bin"))
ANY = [UnsafeAnyMeasurement(), UnsafeAllowDebug()]
EMPTY_KEY = "2021-10-28_debug_hf_nitrite_6c096a02.bin"

pytestmark = pytest.mark.skipif(not REAL, reason="../shared/vectors is not there")


def names(paths: list[Path]) -> list[str]:
    """What pytest calls each vector."""
    return [path.stem for path in paths]


def test_the_index_names_every_vector() -> None:
    """Files and index are the same set, with the digests of the index."""
    for folder, files in (("attestation", REAL), ("attestation-negative", NEGATIVE)):
        index = read_archive_index((VECTORS / folder / "INDEX.tsv").read_text().splitlines())
        assert {path.name for path in files} == set(index)
        for path in files:
            assert hashlib.sha256(path.read_bytes()).digest() == index[path.name].sha256


@pytest.mark.parametrize("path", REAL, ids=names(REAL))
def test_a_real_document_passes_at_its_own_time(path: Path) -> None:
    """Every real document is genuine when it was made, with its own measurements expected, in strict mode
    too.
    """
    data = path.read_bytes()
    claimed = parse_unverified(data)
    made = read_archive_index((path.parent / "INDEX.tsv").read_text().splitlines())[path.name].at
    assert made is not None
    assert timedelta(0) <= made - claimed.timestamp < timedelta(seconds=1)
    expectations = [MaxAge(0), ExpectPublicKey(claimed.public_key or None)] if path.name != EMPTY_KEY else []
    if "_debug_" in path.name:
        assert not verify_document(data, [UnsafeAnyMeasurement()], now=claimed.timestamp).ok
        expectations += ANY
    else:
        expectations += [ExpectPcrs({index: claimed.pcrs[index] for index in (0, 1, 2)})]
    verdict = verify_document(data, expectations, now=claimed.timestamp, strict=path.name != EMPTY_KEY)
    assert verdict.findings == ()
    assert verdict.document == claimed


def test_the_document_with_an_empty_public_key_passes_by_its_rule() -> None:
    """It passes with a notice, is refused in strict mode, and its empty key is neither a key nor null."""
    data = (VECTORS / "attestation" / EMPTY_KEY).read_bytes()
    now = parse_unverified(data).timestamp
    verdict = verify_document(data, ANY, now=now)
    assert verdict.document.public_key == b""
    assert [notice.code for notice in verdict.notices] == ["loose-field"]
    assert not verify_document(data, ANY, now=now, strict=True).ok
    assert not verify_document(data, [*ANY, ExpectPublicKey(None)], now=now).ok


@pytest.mark.parametrize("path", REAL, ids=names(REAL))
def test_a_real_document_does_not_pass_at_another_time(path: Path) -> None:
    """A day later and a day earlier its chain is not in date, with a warm cache as with a cold one."""
    data = path.read_bytes()
    now = parse_unverified(data).timestamp
    cache = ChainCache()
    assert verify_document(data, ANY, now=now, cache=cache).ok
    for other in (now - timedelta(days=1), now + timedelta(days=1)):
        verdict = verify_document(data, ANY, now=other, cache=cache)
        assert "certificate-dates" in {finding.code for finding in verdict.findings}
        assert verdict.findings == verify_document(data, ANY, now=other).findings


REASONS = {
    "1970-01-20_prod_brave_nitriding_b689637d.bin": {"envelope"},
    "2021-09-09_debug_fortanix_rust-sgx_15d4f223.bin": {"signature"},
    "2025-08-29_prod_worldcoin_bedrock_bfd95b4b.bin": {"root", "certificate", "signature"},
    "2026-06-18_prod_reclaimprotocol_attestor-core_020ed8bb.bin": {"nitro-tpm"},
}


@pytest.mark.parametrize("path", NEGATIVE, ids=names(NEGATIVE))
def test_a_negative_vector_is_refused_for_its_reason(path: Path) -> None:
    """What must be refused is refused at its own time, with everything unsafe allowed, for the indexed
    reason.
    """
    data = path.read_bytes()
    now = parse_unverified(REAL[0].read_bytes()).timestamp
    if REASONS[path.name].isdisjoint({"envelope", "nitro-tpm"}):
        now = parse_unverified(data).timestamp
    verdict = verify_document(data, ANY, now=now)
    assert {finding.code for finding in verdict.findings} == REASONS[path.name]


def test_the_pinned_root_is_the_published_one() -> None:
    """The fingerprint in the source is that of AWS's root certificate as published."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    from coattest_verify.attestation import AWS_NITRO

    root = x509.load_pem_x509_certificate((VECTORS / "attestation" / "aws-nitro-root-g1.pem").read_bytes())
    assert root.fingerprint(SHA256()) == AWS_NITRO.sha256
