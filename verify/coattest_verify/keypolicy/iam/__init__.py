"""IAM policy semantics: parse once into frozen values, then decide. Pure: no clock, no network.

The same code answers for the local KMS, for ``verify policy explain`` and for the prover. The rules are
those of the IAM User Guide ("Policy evaluation logic", "IAM JSON policy elements") and of the KMS Developer
Guide ("Key policies in AWS KMS"); each module names the page behind each rule.
"""

from __future__ import annotations

from coattest_verify.keypolicy.iam.actions import KMS
from coattest_verify.keypolicy.iam.authorize import Authorization, authorize
from coattest_verify.keypolicy.iam.evaluate import Assessment, Effect, Principal, Request, assess, evaluate
from coattest_verify.keypolicy.iam.model import (
    Condition,
    Policy,
    PolicyError,
    PolicyKind,
    PolicyStatement,
    Quantifier,
)
from coattest_verify.keypolicy.iam.parse import parse_policy
from coattest_verify.keypolicy.iam.reading import Ternary

__all__ = [
    "KMS",
    "Assessment",
    "Authorization",
    "Condition",
    "Effect",
    "Policy",
    "PolicyError",
    "PolicyKind",
    "PolicyStatement",
    "Principal",
    "Quantifier",
    "Request",
    "Ternary",
    "assess",
    "authorize",
    "evaluate",
    "parse_policy",
]
