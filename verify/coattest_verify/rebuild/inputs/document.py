"""The result of ``verify inputs`` as a JSON document, and what a statement takes from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from coattest.errors import UsageError
from coattest.files import given_file, read_bounded
from coattest.strictjson import MAX_SIZE, Fields, parse
from coattest_build.ownwork import INPUTS, OwnWork
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.statements.claim import SHA256
from coattest_verify.rebuild.inputs.check import LockVerdict, Suite

FORMAT = "coattest-inputs/v1"
MAX_PINS = 4096


def inputs_to_json(verdict: LockVerdict) -> dict[str, Any]:
    """The document. Digests are lower-case hex, times ISO 8601 in UTC."""
    return {
        "format": FORMAT,
        "lock_sha256": verdict.lock_sha256,
        "time": utc(verdict.time),
        "confirmed": verdict.confirmed,
        "suites": [_suite(suite) for suite in verdict.suites],
        "pins": [{**asdict(pin), "confirmed": not pin.findings} for pin in verdict.pins],
    }


def _suite(suite: Suite) -> dict[str, Any]:
    release = suite.release
    return {
        "name": suite.name,
        "inrelease_sha256": suite.release_sha256,
        "date": utc(release.date) if release else None,
        "valid_until": utc(release.valid_until) if release and release.valid_until else None,
        "signed_by": list(suite.signers),
        "findings": [finding.to_json() for finding in suite.findings],
    }


def confirmations(path: Path, lock_sha256: str, own: OwnWork) -> dict[str, bool]:
    """Which pins a document confirms, by the names that ``verify release review`` shows.

    Raises UsageError when there is no such file, this machine did not make it, it does not parse, or it is
    about another lock.
    """
    with given_file(path, hint="verify inputs --out writes it", code="bad-inputs"):
        content = read_bounded(path, MAX_SIZE)
        own.require(INPUTS, content, path, "run verify inputs --out")
        fields = Fields(parse(content, max_size=MAX_SIZE), "")
        fields.exactly("format", FORMAT)
        if fields.text("lock_sha256", SHA256) != lock_sha256:
            raise UsageError("is about another lock", where=str(path), code="wrong-lock")
        found = {}
        for pin in fields.each("pins", high=MAX_PINS):
            name = f"wheel {pin.text('name')}" if pin.text("kind") == "wheel" else pin.text("name")
            found[name] = pin.boolean("confirmed")
    return found
