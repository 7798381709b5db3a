"""Records of CloudTrail as it writes them, and their judgement: for the tests of the audit."""

from __future__ import annotations

import base64
import json
from typing import Any

from coattest_verify.audit.collect import Collected
from coattest_verify.audit.events import KeyName
from coattest_verify.audit.judge import AuditReport, Expected, judge_events
from support.verify.decisions import PARENT

KEY = "arn:aws:kms:eu-central-1:222233334444:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "arn:aws:kms:eu-central-1:222233334444:key/99999999-12ab-34cd-56ef-1234567890ab"
TUPLE = ("a0" * 48, "a1" * 48, "a2" * 48)
ENCLAVE = "i-1234567890abcdef0-enc0123456789abcdef"
AUCTION = "5e" * 48
"""The digest of the manifest whose bid is decrypted."""

EXPECTED = Expected(
    KeyName.parse(KEY),
    (TUPLE,),
    (PARENT,),
    context={"coattest:buyer": "buyer-1"},
    group_by=("coattest:auction", "coattest:buyer"),
)


def record(**changes: Any) -> dict[str, Any]:
    """A Decrypt as CloudTrail records it; ``registers`` are hex and become base64, None is no document."""
    registers = changes.pop("registers", dict(enumerate(TUPLE)))
    raw: dict[str, Any] = {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "arn": "arn:aws:sts::111122223333:assumed-role/parent/i-1",
            "sessionContext": {"sessionIssuer": {"type": "Role", "arn": changes.pop("role", PARENT)}},
        },
        "eventTime": "2026-11-23T10:00:00Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "192.0.2.7",
        "requestParameters": {
            "encryptionContext": {
                "coattest:auction": AUCTION,
                "coattest:buyer": "buyer-1",
                "coattest:image": (registers or {}).get(0, ""),
                "coattest:seal-key": "5e" * 32,
            }
        },
        "resources": [{"ARN": KEY, "accountId": "222233334444", "type": "AWS::KMS::Key"}],
        "eventID": changes.pop("id", "event-1"),
        "recipientAccountId": "222233334444",
    }
    if registers is not None:
        names = {0: "ImageDigest", **{index: f"PCR{index}" for index in range(1, 9)}}
        raw["additionalEventData"] = {
            "recipient": {
                "attestationDocumentModuleId": ENCLAVE,
                **{
                    f"attestationDocumentEnclave{names[index]}": base64.b64encode(
                        bytes.fromhex(value)
                    ).decode()
                    for index, value in registers.items()
                },
            }
        }
    return {**raw, **changes}


def cross_account(principal: str = "AROAEXAMPLE:i-1", **changes: Any) -> dict[str, Any]:
    """A Decrypt whose caller another account's role is: an account and a unique id, nothing else."""
    identity = {"type": "AWSAccount", "principalId": principal, "accountId": PARENT.split(":")[4]}
    return record(**{"userIdentity": identity, **changes})


def record_of_s3(**changes: Any) -> dict[str, Any]:
    """S3's record of an object that is encrypted under the key: its answer names the key."""
    answer = {"x-amz-server-side-encryption-aws-kms-key-id": KEY}
    of_s3 = {"eventSource": "s3.amazonaws.com", "eventName": "GetObject", "responseElements": answer}
    object_of_s3 = [{"type": "AWS::S3::Object", "ARN": "arn:aws:s3:::bids/1"}]
    return record(**{**of_s3, "resources": object_of_s3, **changes})


def collected(*documents: Any, expected: Expected = EXPECTED) -> Collected:
    """What is kept of log files with these contents: bytes as they are, else records of a log file."""
    found = Collected(expected.key)
    for number, document in enumerate(documents):
        data = document if isinstance(document, bytes) else json.dumps({"Records": [document]}).encode()
        found.log(data, f"{number}.json", f"{number}.json")
    return found


def audited(*documents: Any, expected: Expected = EXPECTED) -> AuditReport:
    """The judgement of log files with these contents."""
    found = collected(*documents, expected=expected)
    missing = (*found.findings, *found.unfinished)
    return judge_events(found.events, expected, missing, calls=found.calls)


def codes(*documents: Any, expected: Expected = EXPECTED) -> list[str]:
    """The codes of all findings, of what is undecided too."""
    report = audited(*documents, expected=expected)
    return [finding.code for finding, _ in (*report.found_false, *report.undecided)]
