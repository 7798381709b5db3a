"""An argument of the wrong kind is a UsageError of one line that names it, all over the library."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import UsageError
from coattest_build.builder import build
from coattest_build.explain.describe import describe_image
from coattest_build.explain.diff import compare
from coattest_build.explain.sbom import bill_of_materials
from coattest_build.formats.measure import measure
from coattest_verify.attestation import (
    AWS_NITRO,
    ExpectAnyPcrs,
    ExpectPcrs,
    UnsafeAnyMeasurement,
    verify_document,
    verify_many,
)
from coattest_verify.auction.receipt import verify_receipt
from coattest_verify.audit.judge import judge_events
from coattest_verify.keypolicy.generate import generate_policy
from coattest_verify.keypolicy.iam import Principal, Request, evaluate, parse_policy
from coattest_verify.quorum import decide, decide_from
from coattest_verify.quorum.members.chain import follow
from coattest_verify.rebuild import sign_answer
from coattest_verify.signatures import load_signer

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
NAIVE = NOW.replace(tzinfo=None)
ANY = [UnsafeAnyMeasurement()]
HERE = Path()
ROOT = bytes(32)
ASKED = {"seen": None, "profile": "aws", "now": NOW}
STATEMENT = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
POLICY = parse_policy({"Version": "2012-10-17", "Statement": [STATEMENT]})
RECEIPT = {"root": AWS_NITRO, "check_certificate": None, "now": NOW}
NOBODY: Any = {"account": "1" * 12, "administrators": [], "encrypters": []}

CASES: dict[str, tuple[str, Callable[..., Any]]] = {
    "text for a document": ("document", lambda: verify_document("x", ANY, now=NOW)),
    "one expectation": ("expectations", lambda: verify_document(b"", ANY[0], now=NOW)),
    "no expectations": ("expectations", lambda: verify_document(b"", None, now=NOW)),
    "no zone": ("now", lambda: verify_document(b"", ANY, now=NAIVE)),
    "a root's name": ("root", lambda: verify_document(b"", ANY, now=NOW, root="AWS")),
    "a plain cache": ("cache", lambda: verify_document(b"", ANY, now=NOW, cache={})),
    "one of many": ("documents", lambda: verify_many(b"", ANY, now=NOW)),
    "threads in words": ("threads", lambda: verify_many([], ANY, now=NOW, threads="2")),
    "registers in hex": ("ExpectPcrs PCR0", lambda: ExpectPcrs({0: "ab" * 48})),
    "registers in a list": ("ExpectPcrs", lambda: ExpectPcrs([ROOT])),
    "one set": ("ExpectAnyPcrs", lambda: ExpectAnyPcrs(ExpectPcrs({0: b"1" * 48}))),
    "a root in hex": ("root", lambda: decide(HERE, root="ab" * 32, profile="aws", now=NOW)),
    "decide without a zone": ("now", lambda: decide(HERE, root=ROOT, profile="aws", now=NAIVE)),
    "days as a number": ("fresh", lambda: decide(HERE, root=ROOT, profile="aws", now=NOW, fresh=5)),
    "no folder": ("attestations", lambda: decide(None, root=ROOT, profile="aws", now=NOW)),
    "a path for evidence": ("evidence", lambda: decide_from(HERE, root=ROOT, **ASKED)),
    "a path to follow": ("evidence", lambda: follow(HERE, ROOT, seen=None, now=NOW)),
    "no key file": ("path", lambda: load_signer(None)),
    "no statement": ("statement", lambda: sign_answer(HERE, None, None, None, None, journal=None)),
    "a result in text": ("result_file", lambda: verify_receipt("x", b"", None, **RECEIPT)),
    "no decision": ("decision", lambda: verify_receipt(b"", b"", None, **RECEIPT)),
    "one role": ("parent_roles", lambda: generate_policy([], parent_roles="arn", now=NOW, **NOBODY)),
    "a policy's time": ("now", lambda: generate_policy([], parent_roles=[], now=NAIVE, **NOBODY)),
    "a policy in text": ("policy", lambda: evaluate("{}", None)),
    "a caller's ARN": ("request.principal", lambda: evaluate(POLICY, Request("arn", "kms:Decrypt", "*"))),
    "no request": ("request", lambda: evaluate(POLICY, Principal)),
    "no events": ("events", lambda: judge_events(None, None)),
    "nothing expected": ("expected", lambda: judge_events([], None)),
    "no image": ("path", lambda: measure(None)),
    "an image's time": ("now", lambda: describe_image(HERE, now=NAIVE, files=False)),
    "one image": ("b", lambda: compare(HERE, None)),
    "no spec": ("spec", lambda: bill_of_materials(None, None, "", "")),
    "no source": ("source", lambda: build(None, HERE)),
}


@pytest.mark.parametrize(("where", "call"), CASES.values(), ids=CASES)
def test_an_argument_of_the_wrong_kind_is_named(where: str, call: Callable[[], Any]) -> None:
    """Neither TypeError nor AttributeError from somewhere inside."""
    with pytest.raises(UsageError) as caught:
        call()
    assert (caught.value.where, caught.value.code) == (where, "bad-expectation")


def test_the_prover_names_it_too() -> None:
    """Before its process is started: it would say that the solver ended without an answer."""
    prove = pytest.importorskip("coattest_verify.keypolicy.prove").prove
    for arguments, where in ((("{}", None), "policy"), ((POLICY, None), "question")):
        with pytest.raises(UsageError) as caught:
            prove(*arguments)
        assert caught.value.where == where
