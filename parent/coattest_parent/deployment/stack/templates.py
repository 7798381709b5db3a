"""The service's two CloudFormation templates. Pure: settings, a decision and reports in, canonical JSON out.

``base.json`` is what all releases share, with a filter and an alarm of ``heard.json`` for each of HEARD.
Without reports it makes what must exist before a buyer can write a key policy: the role (KMS refuses a policy
that names a principal that does not exist), buckets, log groups. With them it gives the role its rights on
the buyers' keys and bids. ``parents.json`` is one release with its settings: never changed but for its
capacity. docs/deployment.md says what each right and each alarm is for.

JSON has no comments, so what the files cannot say:

- Session Manager's actions know no resource; one of them knows whose instance asks (Systems Manager User
  Guide, "Reference: ec2messages, ssmmessages").
- A put without If-None-Match has no s3:if-none-match (Amazon S3 User Guide, "Enforce conditional writes").
  A result that is there already is read and compared, never replaced (ADR 150).
- A bucket's name does not show its owner: a buyer that reports one of the service's own, or of a third
  party's, must not get it read (IAM User Guide, "The confused deputy problem").
- Without any rule for what goes out, EC2 lets everything out (HTTPS is for S3, KMS and CloudWatch Logs).
- A profile's name in a template comes back as an ARN, and then looks changed by hand: so it is the ARN.
- A group's own health check replaces what does not run, and a parent whose enclave stays dead powers itself
  off: then it goes, and another comes. Whether an enclave is the decided one, ``apply`` and ``status`` say.
- dead.sh, enclave.sh, fetch-image.sh and first-boot.sh write the lines that the filters look for, and the
  courier its events (CloudWatch Logs User Guide, "Filter pattern syntax for metric filters"). A closed job
  may wait for 900 seconds: three leases. Silence is breaching (CloudWatch User Guide, "Configuring how
  CloudWatch alarms treat missing data").
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from coattest_parent.deployment.stack.configuration import boot_script
from coattest_parent.deployment.stack.settings import Settings
from coattest_verify.keypolicy.report import BuyerReport
from coattest_verify.keypolicy.snippets import bucket_policy, private_bucket

TEMPLATE_MAX = 51_200
"""Bytes of a TemplateBody (CloudFormation API Reference, "CreateChangeSet")."""

GROUP = "Parents"
"""The Auto Scaling group's logical name: what signals are for."""

CAPACITY = "Capacity"
BOOT_MINUTES = 20
"""Minutes in which an instance must have been verified; then its stack is rolled back (CreationPolicy)."""

FROM_BASE = ("ArtifactBucket", "ResultBucket", "Profile", "SecurityGroup")
"""Parameters of a stack of parents that are outputs of the base."""

JOBS = "jobs"
"""Below it the bucket of results has a spool for each release."""

HEARD = {
    "Dead": ("LogsParent", r"\"the enclave stays dead\"", "a parent without an enclave ends"),
    "OtherImage": (
        "LogsParent",
        r"?\"nitro-cli measured another\" ?\"is not the decided one\"",
        "an image is not the decided one, and was not started",
    ),
    "BootFailed": ("LogsBoot", r"\"coattest: the boot failed\"", "an instance's first boot failed"),
    "JobFailed": ("LogsParent", r"{ $.event = \"job-failed\" }", "an auction needs somebody to look"),
}
"""Metrics of lines that somebody must hear of: their log, their pattern in JSON, and what the alarm says."""

LIVE_DAYS = 7
"""Days that the last document of an instance that is gone stays; older versions go after one."""


class _Text(string.Template):
    """``%name`` stands for a setting: ``$`` is CloudFormation's own."""

    delimiter = "%"


def template_text(template: Mapping[str, Any]) -> str:
    """The template as text: sorted keys, no spaces, so that equal templates are equal texts."""
    return json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def base_template(settings: Settings, reports: Sequence[BuyerReport] = ()) -> dict[str, Any]:
    """Role, profile, security group, buckets, log groups, alarms; with reports also the role's rights on what
    the buyers own, and alarms of silence.
    """
    template = _filled("base.json", settings)
    made = template["Resources"]
    for metric, (log, pattern, says) in HEARD.items():
        made |= _filled("heard.json", settings, metric=metric, log=log, pattern=pattern, says=says)
    for bucket in ("Artifacts", "Results"):
        made[bucket] = private_bucket()
        made[f"{bucket}Policy"] = bucket_policy(bucket, [])
    # Documents are put each minute: their old versions go, results stay; and their puts are counted.
    expiry = {"ExpirationInDays": LIVE_DAYS, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    live = {"Id": "live", "Prefix": "live/"}
    made["Results"]["Properties"] |= {
        "LifecycleConfiguration": {"Rules": [{**live, "Status": "Enabled", **expiry}]},
        "MetricsConfigurations": [live],
    }
    if not reports:
        del made["Carry"], made["SilentAlarm"]
        made["JobsWaitAlarm"]["Properties"]["TreatMissingData"] = "notBreaching"
        return template
    decrypt, fetch = made["Carry"]["Properties"]["PolicyDocument"]["Statement"]
    decrypt["Resource"] = sorted({report.kms for report in reports})
    fetch["Resource"] = sorted({report.objects for report in reports})
    fetch["Condition"]["StringEquals"]["aws:ResourceAccount"] = sorted({each.account for each in reports})
    return template


def parents_template(settings: Settings, configuration: str, release: str) -> dict[str, Any]:
    """A launch template and a group over the subnets; ``configuration`` is the archive's digest, and the
    release an output: whose jobs these parents take.

    Its creation waits until as many instances as the capacity were signalled for, one by one, by ``apply``.
    """
    template = _filled("parents.json", settings, release=release, boot_minutes=BOOT_MINUTES)
    made = template["Resources"]
    user_data = {"Fn::Base64": {"Fn::Sub": boot_script(configuration)}}
    made["Launch"]["Properties"]["LaunchTemplateData"]["UserData"] = user_data
    made[GROUP]["Properties"]["VPCZoneIdentifier"] = list(settings.subnets)
    return template


def parents_name(settings: Settings, template: str) -> str:
    """The stack of this template: its name is part of what it is, so another release is another stack.

    What the parameters are is left out: the base's outputs are the same for as long as it exists, and the
    capacity may change.
    """
    return f"coattest-{settings.name}-{hashlib.sha256(template.encode()).hexdigest()[:12]}"


def inline_size(settings: Settings, reports: Sequence[BuyerReport]) -> int:
    """Characters of the role's inline policies (IAM User Guide, "IAM and AWS STS quotas": without spaces)."""
    made = base_template(settings, reports)["Resources"]
    documents = [each["PolicyDocument"] for each in made["ParentRole"]["Properties"]["Policies"]]
    documents += [made["Carry"]["Properties"]["PolicyDocument"]] if reports else []
    text = "".join(template_text(each) for each in documents)
    # As IAM may get them: CloudFormation names a bucket with up to 63 characters.
    arn = "arn:aws-us-gov:s3:::".ljust(20 + 63, "x")
    text = re.sub(r'\{"Fn::GetAtt":[^}]*\}', f'"{arn}"', text)
    text = re.sub(r'\{"Fn::Sub":("[^"]*")\}', r"\1", text)
    return len(re.sub(r"\$\{\w+\.Arn\}", arn, text))


def _filled(file: str, settings: Settings, **more: Any) -> dict[str, Any]:
    """A template of this folder with the settings in it; their grammar leaves JSON as it is."""
    text = (resources.files("coattest_parent.deployment.stack") / file).read_text("utf-8")
    found: dict[str, Any] = json.loads(_Text(text).substitute(asdict(settings), **more))
    return found
