"""What security teams run over accounts and templates finds nothing in the default key policy and stack.

Prowler's checks of enclave keys are fed with the key as ``verify policy apply new`` makes it, and with its
CloudTrail events; each is also shown to fail, so that a pass means something. ``tox -e scanners``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

if os.environ.get("COATTEST_REQUIRE_SCANNERS") != "1":
    pytest.skip("tox -e scanners installs the scanners", allow_module_level=True)

from coattest_build.formats.measure import pcr3
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.templates import base_template, parents_template, template_text
from coattest_verify.cli.policy.making import DESCRIPTION
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.generate import DECISION_TAG, ENCLAVE_TAG, PolicyOptions, policy_text
from coattest_verify.keypolicy.report import BuyerReport
from support.verify.decisions import ACCOUNT, AN_AUCTIONS, ENCRYPTER, PARENT, decision, make
from support.verify.trail_records import record

SERVICES = "prowler.providers.aws.services"
CHECKS = (
    "bypassable_path",
    "no_deployment_binding",
    "not_enforced",
    "pcr_mismatch",
    "unknown_image",
)
"""Prowler's checks kms_key_enclave_attestation_..; a sixth is kms_key_enclave_debug_attestation_detected."""

KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
THIS_KEY = "RESOURCE_STAR"
"""parliament: Resource is "*", in a key policy the key itself (KMS Developer Guide, "Key policies")."""

BUCKET_LOGS = "CKV_AWS_18"
"""checkov: access logs of a bucket. They need a second bucket, which is the buyer's to choose."""

LOG_KEYS = "CKV_AWS_158"
"""checkov: log groups under a key of one's own. CloudWatch encrypts them, and nothing secret is logged."""

TOPIC_KEY = "CKV_AWS_26"
"""checkov: topics under a key. CloudWatch cannot publish under AWS's key for SNS; an alarm has no secret."""

AGENT = "CKV_AWS_111"
"""checkov: writing on every resource. Session Manager's actions know none."""

SETTINGS = Settings(
    name="spring",
    account="111122223333",
    region="eu-central-1",
    vpc="vpc-0123456789abcdef0",
    subnets=("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"),
    ami="ami-0123456789abcdef0",
)
REPORT = BuyerReport("buyer-1", KEY, "s3://bids-of-buyer-1/bids/", SETTINGS.role_arn, ("00" * 32,))


def registers(**changes: str) -> dict[int, str]:
    """The registers that the decided enclave's document has."""
    return {**decision().pcrs, 3: pcr3(PARENT)} | {int(name[3:]): value for name, value in changes.items()}


def prowler(check: str, policy: dict[str, Any] | None, event: dict[str, Any], **changes: Any) -> list[str]:
    """The statuses that one of Prowler's checks gives the key."""
    kms = importlib.import_module(f"{SERVICES}.kms.kms_service")
    tags = {DECISION_TAG: "coattest", ENCLAVE_TAG[0]: ENCLAVE_TAG[1]}
    key = {
        "id": KEY.rsplit("/", 1)[1],
        "arn": KEY,
        "state": "Enabled",
        "origin": "AWS_KMS",
        "manager": "CUSTOMER",
        "rotation_enabled": True,
        "policy": policy,
        "spec": "SYMMETRIC_DEFAULT",
        "region": "eu-central-1",
        "multi_region": False,
        "description": DESCRIPTION,
        "tags": [{"TagKey": name, "TagValue": value} for name, value in tags.items()],
        **changes,
    }
    golden = {f"PCR{index}": [value] for index, value in registers().items()}
    clients = {
        "kms": SimpleNamespace(
            keys=[kms.Key(**key)],
            audit_config={"enclave_golden_pcr_values": golden},
            audited_account=ACCOUNT,
            region="eu-central-1",
        ),
        "cloudtrail": SimpleNamespace(
            trails={"trail": None},
            regional_clients={"eu-central-1": None},
            _lookup_events_page=lambda region, event_name, minutes: (
                [{"CloudTrailEvent": json.dumps(event)}] if event["eventName"] == event_name else [],
                False,
                None,
            ),
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for service, client in clients.items():
            module = ModuleType(f"{SERVICES}.{service}.{service}_client")
            vars(module)[f"{service}_client"] = client
            patch.setitem(sys.modules, module.__name__, module)
        patch.delitem(sys.modules, f"{SERVICES}.kms.{check}.{check}", raising=False)
        found = getattr(importlib.import_module(f"{SERVICES}.kms.{check}.{check}"), check)()
        return [report.status for report in found.execute()]


def used(**changes: str) -> dict[str, Any]:
    """A Decrypt by an enclave with these registers."""
    return record(registers=registers(**changes), resources=[{"ARN": KEY, "type": "AWS::KMS::Key"}])


@pytest.mark.parametrize("name", CHECKS)
def test_prowler_finds_nothing_in_the_default_policy(name: str) -> None:
    """Each check of an enclave's key passes: none is only manual, and none skips the key; nor in an auction's
    policy.
    """
    for policy in (make(), make(context=AN_AUCTIONS)):
        assert prowler(f"kms_key_enclave_attestation_{name}", policy, used()) == ["PASS"]


def test_prowler_finds_no_debug_enclave() -> None:
    """The sixth check: zeros in a document fail, the decided registers pass."""
    check = "kms_key_enclave_debug_attestation_detected"
    assert prowler(check, make(), used()) == ["PASS"]
    zeros = {f"pcr{index}": "00" * 48 for index in range(3)}
    assert prowler(check, make(), used(**zeros)) == ["FAIL"]


def test_prowlers_checks_fail_where_they_should() -> None:
    """An administrator who may do all, a policy without PCR3, another image's digest, an unknown image."""
    attestation = "kms_key_enclave_attestation_"
    everything = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    wide = {"Version": "2012-10-17", "Statement": [everything]}
    for name in ("bypassable_path", "not_enforced"):
        assert prowler(f"{attestation}{name}", wide, used()) == ["FAIL"], name
    unbound = make(options=PolicyOptions(bind_role=False))
    assert prowler(f"{attestation}no_deployment_binding", unbound, used()) == ["FAIL"]
    assert prowler(f"{attestation}pcr_mismatch", make(decision("b")), used()) == ["FAIL"]
    assert prowler(f"{attestation}unknown_image", make(), used(pcr0="ff" * 48)) == ["FAIL"]


def test_scanners_know_the_key_by_its_tag_and_by_its_description() -> None:
    """Either alone does: a key whose policy was replaced is still looked at."""
    enclave = importlib.import_module(f"{SERVICES}.kms.lib.enclave")
    tag = [{"TagKey": ENCLAVE_TAG[0], "TagValue": ENCLAVE_TAG[1]}]
    for tags, description, known in ((tag, "", True), ([], DESCRIPTION, True), ([], "", False)):
        key = SimpleNamespace(tags=tags, description=description, aliases=[], policy=None)
        assert enclave.is_enclave_key(key) is known


def test_parliament_finds_nothing() -> None:
    """In the whole policy; an action that does not exist is found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which says that it is deprecated
        parliament = importlib.import_module("parliament")

    def found(policy: dict[str, Any]) -> list[str]:
        issues = [finding.issue for finding in parliament.analyze_policy_string(policy_text(policy)).findings]
        return [issue for issue in issues if issue != THIS_KEY]

    assert found(make()) == found(make(context=AN_AUCTIONS)) == []
    broken = make()
    broken["Statement"][0]["Action"] = "kms:Decipher"
    assert found(broken)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """The default policy in every notation: the buyer's stack, a CloudFormation key, a Terraform key."""
    policy = make()
    (tmp_path / "stack.json").write_text(snippets.stack(policy, DESCRIPTION, [PARENT], [ENCRYPTER]))
    (tmp_path / "key.json").write_text(snippets.cloudformation(policy, DESCRIPTION))
    (tmp_path / "key.tf").write_text(snippets.terraform(policy, DESCRIPTION))
    return tmp_path


def test_cfn_lint_finds_nothing(templates: Path) -> None:
    """No error, warning or note."""
    program = Path(sys.executable).with_name("cfn-lint")
    files = [str(templates / name) for name in ("stack.json", "key.json")]
    done = subprocess.run(
        [program, "--regions", "eu-central-1", "--include-checks", "I", "--", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("framework", "looked_at"), [("cloudformation", 10), ("terraform", 4)])
def test_checkov_finds_nothing(templates: Path, framework: str, looked_at: int) -> None:
    """Every check of the framework passes, and there are checks: an empty report is no pass."""
    assert passed_by_checkov(templates, framework, BUCKET_LOGS) >= looked_at


def test_checkov_finds_nothing_in_the_services_templates(tmp_path: Path) -> None:
    """The base with the buyers' rights, and parents; what is left out has its reason above."""
    base = base_template(SETTINGS, [REPORT])
    (tmp_path / "base.json").write_text(template_text(base))
    (tmp_path / "parents.json").write_text(template_text(parents_template(SETTINGS, "ab" * 32, "0.1.0")))
    assert passed_by_checkov(tmp_path, "cloudformation", BUCKET_LOGS, LOG_KEYS, TOPIC_KEY, AGENT) >= 30


def passed_by_checkov(folder: Path, framework: str, *left_out: str) -> int:
    """How many checks passed; none failed."""
    program = Path(sys.executable).with_name("checkov")
    done = subprocess.run(
        [
            *(program, "--directory", folder, "--framework", framework, "--skip-download"),
            *("--output", "json", "--skip-check", ",".join(left_out)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = [(each["check_id"], each["resource"]) for each in report["results"]["failed_checks"]]
    assert failed == []
    assert report["results"]["parsing_errors"] == []
    return int(report["summary"]["passed"])
