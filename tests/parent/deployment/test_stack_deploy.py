"""Deployment against a separate process of moto's server, with real boto3 calls and real local enclaves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.aws import AwsFailure
from coattest.errors import FoundFalse, UsageError
from coattest_parent.deployment.stack import checks, rollout, stacks
from coattest_parent.link.aws import ATTEMPTS
from coattest_verify.quorum.authority import authority_from
from support.parent.deployments import Release, now
from support.parent.stack_world import (
    BUYERS,
    Bench,
    World,
    details,
    encrypted,
)
from support.raises import raises_code
from support.verify.members import NOW, report_json


def test_a_deployment_from_its_plan_to_its_end(world: World) -> None:
    """Two phases, upgrade, retirement, rollback, destroy; at every step one of the releases decrypts."""
    first, second = world.first, world.second
    world.plan(first)
    started = world.apply(first)
    assert started["verified"] is False
    assert started["role"] == world.settings.role_arn
    assert started["parents"] == []
    world.plan(first, *(world.stack_of(name, first) for name in BUYERS))
    applied = world.apply(first)
    assert applied["verified"] is True
    assert len(applied["parents"]) == 1
    again = world.apply(first)
    # The same enclave, shown by a newer document.
    assert shown(again) == shown(applied)
    assert again["parents"][0]["time"] > applied["parents"][0]["time"]
    state = world.status(first)
    assert state["findings"] == []
    assert shown(state) == shown(applied)

    ciphertexts = encrypted(world)
    assert world.decrypts(first, ciphertexts)
    assert not world.decrypts(second, ciphertexts)
    # Policies first: without the buyers' reports of the next release there is no plan.
    old = [
        argument for name in BUYERS for argument in ("--report", str(world.folder / f"{name}.report.json"))
    ]
    image = ["--image", str(second.image)]
    answer = world.deploy(
        "plan", *world.chosen, *world.place, "--out", "no", *image, *old, *second.deciding, expect=1
    )
    assert answer["code"] == "policy-first"
    reports = [world.stack_of(name, first, second) for name in BUYERS]
    assert world.decrypts(first, ciphertexts)
    assert world.decrypts(second, ciphertexts)
    world.plan(second, *reports)
    upgraded = world.apply(second)
    assert upgraded["beside"] == [applied["stack"]]
    assert upgraded["retired"] == []
    # The plan in the folder is for the second decision: the first gives another.
    assert world.apply(first, expect=1)["code"] == "plan-differs"
    assert world.apply(second, "--retire")["retired"] == [applied["stack"]]
    # A rollback is the same with the earlier decision.
    world.plan(first, *reports)
    assert world.apply(first, "--retire")["retired"] == [upgraded["stack"]]
    world.plan(second, *reports)
    assert world.apply(second, "--retire")["retired"] == [applied["stack"]]
    world.plan(second, *(world.stack_of(name, second) for name in BUYERS))
    assert not world.decrypts(first, ciphertexts)
    assert world.decrypts(second, ciphertexts)
    assert world.apply(second)["beside"] == []

    ended = world.deploy("destroy", "--plan", "plan", *world.place)
    assert ended["gone"] == [f"stack {upgraded['stack']}", f"stack {world.settings.base_stack}"]
    assert len(ended["remains"]) == 2
    assert world.status(second, expect=1)["stacks"] == {
        world.settings.base_stack: None,
        upgraded["stack"]: None,
    }


def shown(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Which enclaves an answer shows, and on which instances."""
    return [(parent["instance"], parent["module_id"]) for parent in answer["parents"]]


@pytest.mark.parametrize("lie", ["debug", "image"])
def test_what_does_not_verify_is_rolled_back(bench: Bench, lie: str) -> None:
    """A debug enclave and another image: the stack of parents is gone again, and so are its instances."""
    stack = bench.plan.parents_stack
    bench.fault(stack, launch=lie if lie == "debug" else f"image={bench.world.second.image}")
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        bench.apply()
    assert bench.stack(stack) is None
    assert bench.instances() == []
    bench.fault(stack)
    assert bench.apply().parents


def test_a_bad_release_leaves_the_running_one_alone(bench: Bench) -> None:
    """The parents that serve go on, and so does their stack, when the next ones do not verify."""
    served = bench.apply().parents
    before = bench.stack(bench.plan.parents_stack)
    following = bench.following()
    bench.fault(following.parents_stack, launch="debug")
    with raises_code(FoundFalse, "live-document"):
        bench.apply(following, retire=True)
    assert bench.stack(following.parents_stack) is None
    assert bench.stack(bench.plan.parents_stack) == before
    assert bench.instances() == [parent.instance for parent in served]
    assert bench.status()["findings"] == []


def test_the_programs_are_uploaded_under_their_digest(bench: Bench, tmp_path: Path) -> None:
    """Beside the image, before the instance that fetches them is made; each once."""
    archive = tmp_path / "parent.tar"
    archive.write_bytes(b"wheels")
    digest = hashlib.sha256(b"wheels").hexdigest()
    settings = dataclasses.replace(bench.plan.settings, programs=digest)
    plan = dataclasses.replace(bench.plan, settings=settings)
    with pytest.raises(UsageError, match="programs"):
        bench.apply(plan)
    assert bench.stack(plan.parents_stack) is None
    assert bench.apply(plan, programs=archive).parents
    base = bench.stack(settings.base_stack)
    assert base
    s3 = bench.world.services.client("s3", "service")
    place = {"Bucket": base.outputs["ArtifactBucket"], "Key": f"programs/{digest}.tar"}
    assert s3.get_object(**place)["Body"].read() == b"wheels"
    said: list[str] = []
    assert bench.apply(plan, programs=archive, say=said.append).parents
    assert len([line for line in said if line.endswith("exists already")]) == 3


@pytest.mark.parametrize("by_hand", ["role", "group"])
def test_a_stack_changed_by_hand_is_refused(bench: Bench, by_hand: str) -> None:
    """An extra right, or an open port: named, and nothing else happens; status says it too."""
    served = bench.apply().parents
    settings = bench.plan.settings
    if by_hand == "role":
        text = json.dumps(
            {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        )
        bench.world.services.client("iam", "service").put_role_policy(
            RoleName=settings.role_name, PolicyName="more", PolicyDocument=text
        )
    else:
        ec2 = bench.world.services.client("ec2", "service")
        found = ec2.describe_security_groups()["SecurityGroups"]
        (group,) = [item for item in found if f"coattest {settings.name}:" in item["Description"]]
        ec2.authorize_security_group_ingress(
            GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
        )
    with raises_code(FoundFalse, "stack-changed", match="ParentRole" if by_hand == "role" else "Closed"):
        bench.apply()
    assert bench.instances() == [parent.instance for parent in served]
    assert "changed by hand" in details(bench.status())
    if by_hand == "role":
        bench.world.services.client("iam", "service").delete_role_policy(
            RoleName=settings.role_name, PolicyName="more"
        )


def test_a_half_finished_stack_is_taken_up_again(bench: Bench) -> None:
    """An apply that was killed between change set and execution leaves a stack in review."""
    bench.world.services.client("cloudformation", "service").create_change_set(
        StackName=bench.plan.settings.base_stack,
        ChangeSetName="interrupted",
        ChangeSetType="CREATE",
        TemplateBody=bench.plan.base_text,
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    left = bench.stack(bench.plan.settings.base_stack)
    assert left
    assert left.status == "REVIEW_IN_PROGRESS"
    assert bench.apply().parents


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (None, "create"),
        ("DELETE_COMPLETE", "create"),
        ("REVIEW_IN_PROGRESS", "remove"),
        ("ROLLBACK_COMPLETE", "remove"),
        ("CREATE_FAILED", "remove"),
        ("UPDATE_IN_PROGRESS", "wait"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "wait"),
        ("UPDATE_ROLLBACK_COMPLETE", "update"),
        ("UPDATE_ROLLBACK_FAILED", "continue"),
        ("DELETE_FAILED", "stop"),
    ],
)
def test_every_status_has_a_next_step(status: str | None, step: str) -> None:
    """Waited for, taken up, removed first, or left to a person."""
    assert stacks.next_step(status) == step


def test_missing_rights_end_it_before_anything_is_made(bench: Bench) -> None:
    """Credentials that may only look: exit 3, one line with AWS's own code, and nothing was created."""
    iam = bench.world.services.client("iam", "service")
    user = f"looker-{bench.plan.settings.name}"
    iam.create_user(UserName=user)
    text = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["cloudformation:Describe*", "cloudformation:GetTemplate", "ec2:Describe*"],
                    "Resource": "*",
                }
            ],
        }
    )
    iam.put_user_policy(UserName=user, PolicyName="look", PolicyDocument=text)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    with pytest.raises(AwsFailure, match="AccessDenied") as refused:
        bench.apply(keys=(key["AccessKeyId"], key["SecretAccessKey"]))
    assert refused.value.exit_code == 3
    assert bench.stack(bench.plan.settings.base_stack) is None
    assert bench.instances() == []


@pytest.mark.parametrize("service", ["cloudformation", "ec2", "autoscaling"])
def test_throttling_that_does_not_end_is_an_error(bench: Bench, waits: list[float], service: str) -> None:
    """botocore's retries are used up, then one line says so; the next apply goes on."""
    (bench.world.services.directory / "throttle").write_text(service)
    with pytest.raises(AwsFailure, match="Throttling") as refused:
        # Only plan asks EC2.
        checks.require_workable(bench.plan, bench.cloud().aws) if service == "ec2" else bench.apply()
    assert refused.value.exit_code == 3
    assert len(waits) == ATTEMPTS - 1
    (bench.world.services.directory / "throttle").unlink()
    # Auto Scaling is asked only once there is a group; the next apply takes it up.
    assert bool(bench.instances()) == (service == "autoscaling")
    assert bench.apply().parents


def test_a_subnet_of_another_region_is_refused(bench: Bench) -> None:
    """The region is that of the VPC, and the account that of the credentials."""
    aws = bench.cloud().aws
    checks.require_workable(bench.plan, aws)
    elsewhere = dataclasses.replace(bench.plan.settings, region="eu-west-1")
    with raises_code(FoundFalse, "unworkable", match="the subnet is not in .* in eu-west-1"):
        checks.require_workable(dataclasses.replace(bench.plan, settings=elsewhere), aws)
    nothing = dataclasses.replace(bench.plan.settings, ami="ami-00000000", instance_type="c6i.99xlarge")
    with raises_code(FoundFalse, "unworkable", match="no such type.*no such image"):
        checks.require_workable(dataclasses.replace(bench.plan, settings=nothing), aws)
    stranger = dataclasses.replace(bench.plan.settings, account="999988887777")
    with raises_code(FoundFalse, "wrong-account"):
        rollout.require_account(stranger, aws)


def test_an_expired_decision_is_no_authority(world: World) -> None:
    """At the day that quorum.toml names there is no decision to plan or apply with."""
    members = world.first.members
    options = {
        "attestations": members.attestations,
        "root": members.root,
        "profile": "local",
        "release": "0.1.0",
    }
    with pytest.raises(FoundFalse, match="expired") as caught:
        authority_from(options, world.first.authority.members.expires)
    assert caught.value.code == "no-decision"


def test_a_dissent_is_no_authority(world: World, tmp_path: Path) -> None:
    """One member who got another image stops apply with exit 1, before anything is asked of the cloud."""
    shutil.copytree(world.first.members.folder, tmp_path / "quorum")
    members = dataclasses.replace(world.first.members, folder=tmp_path / "quorum")
    release = Release.make(tmp_path, world.first.image, by=members)
    release.members.sign("buyer-2", report_json("another"), age=NOW - (now() - timedelta(hours=1)))
    image = ["--image", str(release.image)]
    answer = world.deploy(
        "plan", *world.chosen, *world.place, "--out", "none", *image, *release.deciding, expect=1
    )
    assert answer["code"] == "no-decision"
    assert "buyer-2: dissents" in answer["error"]
    assert not (world.folder / "none").exists()
