"""A verdict is true only where it passed: ``if verify_document(..):`` never lets a bad document through."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, cast

import pytest

from coattest.findings import Finding
from coattest_build.containers.checking import ContainerCheck
from coattest_build.explain.describe import SignatureReport
from coattest_build.explain.diff import Comparison
from coattest_verify.attestation import AWS_NITRO
from coattest_verify.attestation.document import Document
from coattest_verify.attestation.verdict import Verdict
from coattest_verify.auction.receipt import Check, ReceiptVerdict
from coattest_verify.audit.judge import AuditReport
from coattest_verify.audit.verdict import AuditOutcome, AuditVerdict
from coattest_verify.fleet.judge import VERIFIED, Judged
from coattest_verify.keypolicy.iam import Authorization, Effect, Ternary
from coattest_verify.keypolicy.prove.goals import GoalResult, Status
from coattest_verify.quorum.change.judge import ChangeVerdict
from coattest_verify.quorum.decision import Decision, Outcome
from coattest_verify.quorum.log.examine import LogVerdict
from coattest_verify.rebuild.inputs.check import LockVerdict, Pin, Suite
from support.source_tree import modules

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
WRONG = Finding("malformed", "here", "is wrong")
DOCUMENT = cast("Document", object())

GOOD: dict[str, Any] = {
    "Verdict": Verdict((), (), AWS_NITRO, NOW, NOW, DOCUMENT),
    "ReceiptVerdict": ReceiptVerdict((Check("files", "readable"),), None, None, None, ()),
    "AuditReport": AuditReport((), (), (), (), (), {"Decrypt": 1}, 0, 0),
    "AuditVerdict": AuditVerdict(AuditOutcome.AS_DECIDED, "verified", ""),
    "ChangeVerdict": ChangeVerdict("a", "b", (), (), (), touched=True),
    "LogVerdict": LogVerdict(1, "0" * 64),
    "LockVerdict": LockVerdict("0" * 64, NOW, (Suite("bookworm"),), ()),
    "Outcome": Outcome(cast("Decision", object()), ("north",), (), (), (), ()),
    "Authorization": Authorization(True, "allowed"),
    "Effect": Effect.ALLOW,
    "GoalResult": GoalResult("power", Status.PROVED),
    "Judged": Judged("fleet", "place", VERIFIED),
    "ContainerCheck": ContainerCheck((), (), ("kernel",)),
    "Comparison": Comparison((), {}, truncated=False, faults=()),
    "SignatureReport": SignatureReport(None, ()),
}

PARTS = {
    "Check": "a line of a ReceiptVerdict",
    "Suite": "a part of a LockVerdict",
    "Pin": "a part of a LockVerdict",
    "Collected": "the events of a log, to be judged",
    "Description": "what an image is, good or bad",
    "Unpacking": "what an image is, good or bad",
    "FoundLayout": "what an image is, good or bad",
    "CertificateChain": "read, and judged by verify_document",
    "Found": "a command's, with an exit code",
}
"""Classes with findings that are no verdicts, each with what it is."""


def bad() -> list[Any]:
    """Each verdict in each way that it can have failed."""
    good = GOOD
    return [
        replace(good["Verdict"], findings=(WRONG,)),
        replace(good["Verdict"], _document=None),
        replace(good["ReceiptVerdict"], checks=(Check("files", "readable", (WRONG,)),)),
        replace(good["ReceiptVerdict"], checks=(Check("files", "readable", ran=False),)),
        replace(good["ReceiptVerdict"], checks=()),
        replace(good["AuditReport"], found_false=((WRONG, None),)),
        replace(good["AuditReport"], undecided=((WRONG, None),)),
        replace(good["AuditReport"], operations={}),
        *(replace(good["AuditVerdict"], outcome=AuditOutcome(code)) for code in (1, 3)),
        replace(good["ChangeVerdict"], findings=(WRONG,)),
        replace(good["LogVerdict"], finding=WRONG),
        replace(good["LogVerdict"], removed=(WRONG,)),
        replace(good["LockVerdict"], suites=()),
        replace(good["LockVerdict"], suites=(Suite("bookworm", findings=(WRONG,)),)),
        replace(good["LockVerdict"], pins=(Pin("deb", "a", "1", "0" * 64, None, (WRONG,)),)),
        replace(good["Outcome"], decision=None),
        Authorization(False, "no policy allows it"),
        *(effect for effect in Effect if effect is not Effect.ALLOW),
        *(GoalResult("power", status) for status in Status if status is not Status.PROVED),
        Judged("fleet", "place", "drifted", findings=(WRONG,)),
        replace(good["ContainerCheck"], findings=(WRONG,)),
        replace(good["ContainerCheck"], undecided=(WRONG,)),
        replace(good["ContainerCheck"], same=()),
        replace(good["Comparison"], findings=(WRONG,)),
        replace(good["Comparison"], faults=(WRONG,)),
        replace(good["SignatureReport"], findings=(WRONG,)),
    ]


@pytest.mark.parametrize("verdict", GOOD.values(), ids=GOOD)
def test_what_passed_is_true(verdict: Any) -> None:
    """So that ``if`` and ``all`` can be asked."""
    assert verdict


@pytest.mark.parametrize("verdict", bad(), ids=lambda verdict: type(verdict).__name__)
def test_what_did_not_pass_is_false(verdict: Any) -> None:
    """Also where nothing was looked at."""
    assert not verdict


def test_every_kind_of_verdict_is_shown_failing() -> None:
    """A class of the good ones has bad ones too."""
    assert {type(verdict).__name__ for verdict in bad()} == set(GOOD)


def test_a_third_value_is_never_taken_for_yes_or_no() -> None:
    """``perhaps`` is asked for by name."""
    for value in Ternary:
        with pytest.raises(TypeError, match="surely or perhaps"):
            bool(value)


def test_no_class_with_findings_is_true_in_spite_of_them() -> None:
    """Every class that is named a verdict or has a tuple of findings says when it is true, or is a part."""
    silent = {
        node.name
        for module, path in modules().items()
        if not module.startswith("coattest_local")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and _judges(node) and not _has(node, "__bool__")
    }
    assert silent == set(PARTS)


def _judges(node: ast.ClassDef) -> bool:
    fields = {ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)}
    properties = (
        item
        for item in node.body
        if isinstance(item, ast.FunctionDef) and ast.unparse(item.args).strip() == "self"
    )
    return node.name.endswith("Verdict") or "findings" in fields | {item.name for item in properties}


def _has(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(item, ast.FunctionDef) and item.name == name for item in node.body)
