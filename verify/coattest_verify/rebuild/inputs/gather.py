"""Fetches suites from a mirror, checks their signatures, and passes on what is signed."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

from coattest.findings import Finding
from coattest.progress import Reporter
from coattest_build.image import ImageSpec
from coattest_build.inputs.debian import Package
from coattest_build.inputs.fetch import INDEX_SECONDS
from coattest_build.inputs.lock import Lock
from coattest_build.inputs.transfer import open_address, read_response
from coattest_verify.rebuild.inputs import wheels
from coattest_verify.rebuild.inputs.check import LockVerdict, Suite, judge_lock
from coattest_verify.rebuild.inputs.clearsign import signed_text
from coattest_verify.rebuild.inputs.packages import read_packages
from coattest_verify.rebuild.inputs.release import MAX_INDEX_PACKED, Release, judge_release, parse_release

if TYPE_CHECKING:
    from pysequoia import Cert

MAX_RELEASE = 4 * 1024 * 1024
"""Bytes of an InRelease file; bookworm's has 150 KB."""


def check_lock(
    lock: Lock,
    lock_sha256: str,
    spec: ImageSpec,
    mirrors: Sequence[str],
    certificates: Sequence[Cert],
    *,
    now: datetime,
    reporter: Reporter,
) -> LockVerdict:
    """The verdict on a lock, from the first of ``mirrors`` that answers and from pip's index."""
    names = {package.name for package in lock.packages}

    def suite(name: str) -> Suite:
        return read_signed_suite(mirrors, name, spec, names, certificates, now=now)

    with ThreadPoolExecutor(4) as pool, reporter.step("Asking the archive and the package index"):
        found_wheels = {pin.name: pool.submit(wheels.check_wheel, pin) for pin in lock.wheels}
        suites = list(pool.map(suite, spec.suites))
        findings = {name: task.result() for name, task in found_wheels.items()}
    return judge_lock(lock, lock_sha256, suites, findings, now=now)


def read_signed_suite(
    mirrors: Sequence[str],
    name: str,
    spec: ImageSpec,
    names: Collection[str],
    certificates: Sequence[Cert],
    *,
    now: datetime,
) -> Suite:
    """A suite's packages with one of ``names``, trusted through an unbroken chain from a signature."""
    folder = f"dists/{name}"
    data = fetch(mirrors, [f"{folder}/InRelease"], MAX_RELEASE, name)
    if isinstance(data, Finding):
        return Suite(name, findings=(data,))
    digest = hashlib.sha256(data).hexdigest()
    signed = signed_text(data, certificates, name)
    if isinstance(signed, Finding):
        return Suite(name, digest, findings=(signed,))
    release = parse_release(signed.text, name)
    if isinstance(release, Finding):
        return Suite(name, digest, signers=signed.signers, findings=(release,))
    findings = judge_release(release, name, now=now)
    if findings:
        return Suite(name, digest, release, signed.signers, findings=findings)
    packages = _index(mirrors, name, spec, names, release)
    if isinstance(packages, Finding):
        return Suite(name, digest, release, signed.signers, findings=(packages,))
    return Suite(name, digest, release, signed.signers, packages)


def _index(
    mirrors: Sequence[str],
    suite: str,
    spec: ImageSpec,
    names: Collection[str],
    release: Release,
) -> Mapping[str, tuple[Package, ...]] | Finding:
    folder = f"dists/{suite}"
    directory = f"{spec.component}/binary-{spec.debian_architecture}"
    listed = release.files.get(f"{directory}/Packages.xz")
    if listed is None or listed.size > MAX_INDEX_PACKED:
        return Finding("bad-release", suite, f"lists no {directory}/Packages.xz of a size within the limit")
    # By its digest first: a mirror in the middle of an update still has the index of this InRelease there.
    by_hash = [f"{folder}/{directory}/by-hash/SHA256/{listed.sha256}"] if release.by_hash else []
    data = fetch(mirrors, [*by_hash, f"{folder}/{directory}/Packages.xz"], listed.size + 1, suite)
    return data if isinstance(data, Finding) else read_packages(data, listed, names, suite)


def fetch(mirrors: Sequence[str], paths: Sequence[str], limit: int, where: str) -> bytes | Finding:
    """At most ``limit`` bytes of the first path that the first answering mirror has.

    An index is asked for one byte more than is signed, so that a longer one is noticed.
    """
    failures = []
    for mirror in mirrors:
        for path in paths:
            try:
                with open_address(f"{mirror}/{path}", most=limit + 1, seconds=INDEX_SECONDS) as response:
                    data = read_response(response, limit + 1)
            except (OSError, http.client.HTTPException, ValueError) as error:
                code = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else None
                failures.append(f"{path}: {code or getattr(error, 'reason', None) or error}")
                continue
            if len(data) > limit:
                return Finding("too-large", where, f"{path}: more than {limit} bytes")
            return data
    return Finding("index-unreachable", where, failures[-1][:300] if failures else "no mirror")
