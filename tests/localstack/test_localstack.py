"""The base and a buyer's stack on LocalStack: a CloudFormation that is neither moto's nor ours.

Its free wheel has no Auto Scaling and no launch templates, so no parents are made. ``tox -e localstack``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if os.environ.get("COATTEST_REQUIRE_LOCALSTACK") != "1":
    pytest.skip("tox -e localstack installs LocalStack", allow_module_level=True)

import boto3

from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.stacks import Stacks
from coattest_parent.deployment.stack.templates import base_template, template_text
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.report import BuyerReport
from support.loopback import free_port
from support.verify.decisions import ACCOUNT, ENCRYPTER, PARENT, SERVICE, make

REGION = "eu-central-1"
SERVICES = ("cloudformation", "cloudwatch", "ec2", "iam", "kms", "logs", "s3", "sns", "sts")
START_SECONDS = 300
SETTINGS = Settings(
    name="spring",
    account=SERVICE,
    region=REGION,
    vpc="vpc-0123456789abcdef0",
    subnets=("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"),
    ami="ami-0123456789abcdef0",
)


@dataclasses.dataclass(frozen=True)
class Cloud:
    """LocalStack on a port of this machine."""

    url: str

    def client(self, service: str, account: str) -> Any:
        """A client of an account, which its access key names."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=account,
            aws_secret_access_key="secret",
        )

    def stacks(self, account: str) -> Stacks:
        """The stacks of an account."""
        return Stacks(self.client("cloudformation", account), print)

    def resources(self, account: str, stack: str) -> dict[str, str]:
        """A stack's resources that are complete: physical id by logical name."""
        found = self.client("cloudformation", account).describe_stack_resources(StackName=stack)
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in found["StackResources"]
            if each["ResourceStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        }


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """LocalStack as a process, offline and without Docker."""
    folder = tmp_path_factory.mktemp("localstack")
    offline = {"DISABLE_EVENTS": "1", "DNS_ADDRESS": "0", "SKIP_SSL_CERT_DOWNLOAD": "1"}
    place = {"FILESYSTEM_ROOT": str(folder), "LOCALSTACK_VOLUME_DIR": str(folder), "HOME": str(folder)}
    with (
        free_port() as port,
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "localstack.runtime.main"],
            env={
                "PATH": os.environ["PATH"],
                "GATEWAY_LISTEN": f"127.0.0.1:{port}",
                "SERVICES": ",".join(SERVICES),
            }
            | offline
            | place,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            await_health(process, f"http://127.0.0.1:{port}/_localstack/health", folder / "log")
            yield Cloud(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once it answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text("utf-8", "replace")[-2000:])


def test_the_base_is_made_and_then_given_the_buyers_rights(cloud: Cloud) -> None:
    """Both phases by change sets; every resource is there, and the outputs have their form."""
    vpc = cloud.client("ec2", SERVICE).describe_vpcs()["Vpcs"][0]["VpcId"]
    settings = dataclasses.replace(SETTINGS, vpc=vpc)
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    report = BuyerReport("buyer-1", key, "s3://bids-of-buyer-1/bids/", settings.role_arn, ("00" * 32,))
    stacks, iam = cloud.stacks(SERVICE), cloud.client("iam", SERVICE)
    for reports, status in (((), "CREATE_COMPLETE"), ((report,), "UPDATE_COMPLETE")):
        template = base_template(settings, reports)
        state = stacks.put(settings.base_stack, template_text(template), {})
        assert state.status == status
        assert set(cloud.resources(SERVICE, settings.base_stack)) == set(template["Resources"])
        for name in ("ArtifactBucket", "ResultBucket", "Profile", "SecurityGroup"):
            assert state.output(name)
        assert iam.get_role(RoleName=settings.role_name)["Role"]["Arn"] == settings.role_arn
        policies = iam.list_role_policies(RoleName=settings.role_name)["PolicyNames"]
        assert ("carry" in policies) is bool(reports)
    alarms = cloud.client("cloudwatch", SERVICE).describe_alarms()["MetricAlarms"]
    assert {each["AlarmActions"][0] for each in alarms} == {state.outputs["AlarmTopic"]}
    metrics = cloud.client("s3", SERVICE).get_public_access_block(Bucket=state.output("ResultBucket"))
    assert set(metrics["PublicAccessBlockConfiguration"].values()) == {True}
    stacks.delete(settings.base_stack)
    assert stacks.find(settings.base_stack) is None


def test_a_buyers_stack_has_the_decided_keys_policy(cloud: Cloud) -> None:
    """The key that it makes has the policy that was made for the decision."""
    policy = make()
    template = json.loads(snippets.stack(policy, "coattest", [PARENT], [ENCRYPTER]))
    state = cloud.stacks(ACCOUNT).put("coattest-buyer", template_text(template), {})
    assert state.outputs["Bids"].startswith("s3://")
    kms = cloud.client("kms", ACCOUNT)
    found = kms.get_key_policy(KeyId=state.outputs["KeyArn"], PolicyName="default")["Policy"]
    assert json.loads(found) == policy
    assert set(cloud.resources(ACCOUNT, "coattest-buyer")) == set(template["Resources"])
