"""Everything that deployment reads back is hostile: outputs, answers of the instance, documents, reports."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from coattest.aws import AwsFailure
from coattest.errors import EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest_parent.deployment.runner import Enclave
from coattest_parent.deployment.stack import planning, rollout, stacks
from coattest_parent.deployment.stack.hosts import LocalHost
from coattest_parent.deployment.stack.remote import CID_MAX, FIRST_CID, parse_enclaves
from coattest_parent.deployment.stack.stacks import Stacks
from coattest_verify.keypolicy.report import BuyerReport
from support.local.kms_world import allow, policy
from support.parent.deployments import ACCOUNTS, now
from support.parent.stack_world import BUYERS, Bench, DebugHost, details
from support.raises import raises_code

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
ELSEWHERE = "i-0ffffffffffffffff"
RUNNING: dict[str, Any] = {
    "EnclaveName": "0123456789abcdef",
    "EnclaveID": "i-0abc-enc0123",
    "ProcessID": 4711,
    "EnclaveCID": 16,
    "State": "RUNNING",
    "Flags": "NONE",
    "Measurements": {f"PCR{index}": f"{index}" * 96 for index in range(3)},
}


def state(**changes: Any) -> stacks.StackState:
    """A stack's state with outputs as they should be, or not."""
    outputs = {"InstanceId": "i-0123456789abcdef0", "ArtifactBucket": "a-bucket", **changes}
    return stacks.StackState("s", "CREATE_COMPLETE", outputs, {}, "{}", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("InstanceId", "i-0123456789abcdef0; reboot"),
        ("InstanceId", "i-0123456789abcdef0\n"),
        ("InstanceId", "--document-name"),
        ("InstanceId", ""),
        ("ArtifactBucket", "a-bucket --endpoint-url http://elsewhere"),
        ("ArtifactBucket", "-o"),
        ("ArtifactBucket", "a/../b"),
        ("ArtifactBucket", "$(id)"),
        ("ArtifactBucket", ESCAPE),
    ],
)
def test_an_output_of_another_form_goes_no_further(name: str, value: str) -> None:
    """Neither into a command, nor into a parameter, nor as it is onto the terminal."""
    assert state().output(name)
    with raises_code(EnvironmentFailure, "stack-failed", match=f"the output {name} is ") as refused:
        state(**{name: value}).output(name)
    assert str(refused.value).isprintable()
    with raises_code(EnvironmentFailure, "stack-failed", match="ResultBucket is missing"):
        state().output("ResultBucket")


class Answering:
    """CloudFormation whose answers are given."""

    def __init__(self, body: Any, **stack: Any) -> None:
        self.body = body
        self.stacks = [{"StackStatus": "CREATE_COMPLETE", **stack}] if stack.get("there", True) else []

    def describe_stacks(self, **_: Any) -> Any:
        return {"Stacks": self.stacks}

    def get_template(self, **_: Any) -> Any:
        return {"TemplateBody": self.body}

    def detect_stack_drift(self, **_: Any) -> Any:
        return {"StackDriftDetectionId": "d"}

    def describe_stack_drift_detection_status(self, **_: Any) -> Any:
        return {"DetectionStatus": "DETECTION_COMPLETE", "StackDriftStatus": "IN_SYNC"}


@pytest.mark.parametrize("body", ["Resources:\n  A: {Type: 'AWS::S3::Bucket'}\n", "[" * 100_000, "nonsense"])
def test_a_template_of_somebody_else_is_a_change_by_hand(body: str) -> None:
    """YAML, JSON without an end, anything: named as the template, not a crash."""
    client: Any = Answering(body)
    with raises_code(FoundFalse, "stack-changed", match="changed by hand: the template"):
        Stacks(client, lambda _: None).require_untouched("s")
    nothing: Any = Answering(body, there=False)
    assert Stacks(nothing, lambda _: None).find("s") is None


@pytest.mark.parametrize(
    "change",
    [
        {"EnclaveID": f"i-0abc-enc0123{ESCAPE}"},
        {"EnclaveID": "x" * 20_000},
        {"Flags": f"NONE{ESCAPE}"},
        {"Flags": ["NONE"]},
        {"EnclaveCID": FIRST_CID - 1},
        {"EnclaveCID": CID_MAX + 1},
        {"EnclaveCID": True},
        {"EnclaveCID": -1},
        {"State": "EMPTY"},
        {"Measurements": [1]},
    ],
)
def test_what_the_instance_says_of_an_enclave_has_a_form(change: dict[str, Any]) -> None:
    """Other text than nitro-cli's ends in one line that a terminal can show."""
    assert parse_enclaves(json.dumps([RUNNING]))
    with raises_code(EnvironmentFailure, "enclave-not-started") as refused:
        parse_enclaves(json.dumps([{**RUNNING, **change}]))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_an_answer_without_an_end_is_an_error() -> None:
    """Nesting deeper than any reader goes."""
    for text in ("[" * 24_000, '{"a":' * 4_000, "[" + "9" * 20_000 + "]"):
        with raises_code(EnvironmentFailure, "enclave-not-started", match="not the output of nitro-cli"):
            parse_enclaves(text)


def test_an_enclave_that_is_ending_is_none_that_runs() -> None:
    """It blocks neither status nor the end of the deployment."""
    assert parse_enclaves(json.dumps([{**RUNNING, "State": "TERMINATING"}])) == {}


class Replaying(LocalHost):
    """A parent that answers with a document that it kept."""

    kept: bytes | None = None

    def document(self, enclave: Enclave, nonce: bytes) -> bytes:
        self.kept = self.kept or super().document(enclave, nonce)
        return self.kept


class Relaying(LocalHost):
    """A parent that has another enclave answer: ``other`` is asked in its place."""

    other: Enclave

    def document(self, enclave: Enclave, nonce: bytes) -> bytes:
        return super().document(self.other, nonce)


def test_a_document_that_was_kept_is_refused(bench: Bench) -> None:
    """It is of the decided enclave, fresh and genuine, and over an older nonce."""
    host = Replaying(bench.host.directory)
    assert bench.apply(host=host).live
    with raises_code(FoundFalse, "live-document", match="nonce"):
        bench.apply(host=host)
    assert list(host.running()) == [bench.plan.release_id]
    assert "nonce" in details(rollout.stacks_status(bench.plan, bench.cloud(host)))


@pytest.mark.parametrize("differs", ["instance", "role"])
def test_the_document_of_another_enclave_is_refused_and_rolled_back(
    bench: Bench, tmp_path: Path, differs: str
) -> None:
    """The same image over the same nonce, on another instance or with another role."""
    role, image = bench.plan.settings.role_arn, bench.world.first.image
    elsewhere = LocalHost(tmp_path / "elsewhere")
    host = Relaying(bench.host.directory)
    # PCR4 cannot be foreseen for an instance that is made only then; PCR3 is wrong beside it, or not.
    host.other = elsewhere.run(
        bench.plan.release_id,
        image,
        role_arn=role if differs == "instance" else f"{role}-other",
        instance_id=ELSEWHERE,
    )
    try:
        with raises_code(
            FoundFalse, "live-document", match="PCR4" if differs == "instance" else "PCR3.*PCR4"
        ):
            bench.apply(host=host)
    finally:
        elsewhere.terminate(bench.plan.release_id)
    assert host.running() == {}
    assert bench.stack(bench.plan.settings.main_stack) is None


def test_a_debug_enclave_is_refused_also_by_a_decision_of_zeros(bench: Bench) -> None:
    """No decision makes registers of zeros right."""
    zeros = dict.fromkeys(range(3), "0" * 96)
    plan = dataclasses.replace(bench.plan, decision=dataclasses.replace(bench.plan.decision, pcrs=zeros))
    host = DebugHost(bench.host.directory)
    with raises_code(UsageError, "bad-expectation", match="a register of zeros pins nothing"):
        rollout.apply_stacks(plan, bench.world.first.image, bench.cloud(host))
    assert host.running() == {}


class Stubborn(DebugHost):
    """A parent whose enclaves do not end when they are told to."""

    def terminate(self, release: str) -> None:
        raise EnvironmentFailure("it does not end", where=release)


def test_what_cannot_be_rolled_back_is_said_and_hides_nothing(bench: Bench) -> None:
    """The error is why the release was refused; that its enclave still runs is told beside it."""
    said: list[str] = []
    cloud = dataclasses.replace(bench.cloud(Stubborn(bench.host.directory)), say=said.append)
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        rollout.apply_stacks(bench.plan, bench.world.first.image, cloud)
    assert any("NOT rolled back" in line and "it does not end" in line for line in said)
    assert bench.stack(bench.plan.settings.main_stack) is None


def test_an_image_that_is_swapped_after_it_was_measured_is_not_uploaded(bench: Bench, tmp_path: Path) -> None:
    """S3 refuses bytes that are not those of the checksum; nothing is made, nothing starts."""
    image = tmp_path / "image.eif"
    shutil.copy(bench.world.first.image, image)
    plan = planning.make_stack_plan(
        bench.world.first.authority,
        image,
        bench.plan.settings,
        {name: bench.world.first.report(name, role=bench.plan.settings.role_arn) for name in BUYERS},
    )
    shutil.copy(bench.world.second.image, image)
    with pytest.raises(AwsFailure, match="PutObject: BadDigest"):
        rollout.apply_stacks(plan, image, bench.cloud())
    assert bench.stack(bench.plan.settings.main_stack) is None
    assert bench.host.running() == {}
    s3 = bench.world.services.client("s3", "service")
    for bucket in bench.buckets():
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_bucket_of_another_account_gets_nothing(bench: Bench) -> None:
    """S3 is told whose bucket it must be: a name that was taken elsewhere is refused."""
    taken = f"{bench.plan.settings.base_stack}-taken"
    bench.world.services.client("s3", "buyer-1").create_bucket(
        Bucket=taken, CreateBucketConfiguration={"LocationConstraint": bench.plan.settings.region}
    )
    bench.world.services.client("s3", "buyer-1").put_bucket_policy(
        Bucket=taken,
        Policy=policy(
            {**allow("*", ["s3:GetObject", "s3:PutObject"]), "Resource": f"arn:aws:s3:::{taken}/*"}
        ),
    )
    with pytest.raises(AwsFailure, match="403"):
        rollout.upload(bench.plan, bench.world.first.image, bench.cloud(), taken)
    assert "Contents" not in bench.world.services.client("s3", "buyer-1").list_objects_v2(Bucket=taken)


def test_a_decision_that_expires_between_plan_and_success_is_rolled_back(bench: Bench) -> None:
    """The last moment counts: what was started ends, and its stack goes."""
    for expires in (now() - timedelta(seconds=1), now()):
        decision = dataclasses.replace(bench.plan.decision, expires=expires)
        with raises_code(FoundFalse, "no-decision", match="expired at"):
            rollout.apply_stacks(
                dataclasses.replace(bench.plan, decision=decision), bench.world.first.image, bench.cloud()
            )
        assert bench.host.running() == {}
        assert bench.stack(bench.plan.settings.main_stack) is None


def test_a_release_that_the_buyers_retired_is_no_plan(bench: Bench) -> None:
    """A rollback to it is refused before anything is asked of the cloud."""
    world, role = bench.world, bench.plan.settings.role_arn
    reports = {name: world.second.report(name, role=role) for name in BUYERS}
    with raises_code(FoundFalse, "policy-first", match="does not admit"):
        planning.make_stack_plan(world.first.authority, world.first.image, bench.plan.settings, reports)


@pytest.mark.parametrize(
    "change",
    [
        {"kms": "arn:aws:kms:eu-central-1$(id):222233334444:key/1"},
        {"kms": "arn:aws:kms:-----:222233334444:key/1"},
        {"kms": "arn:aws:kms:eu-central-1,x:222233334444:key/1"},
        {"kms": "arn:aws:kms:eu-central-1:222233334444:key/*"},
        {"kms": "arn:aws:kms:eu-central-1:222233334444:alias/any"},
        {"kms": "arn:aws:kms:eu-central-1:222233334444:key/1,arn:aws:kms:eu-central-1:111122223333:key/2"},
        {"bids": "s3://bids/*/"},
        {"bids": "s3://bids/${aws:PrincipalTag}/"},
        {"bids": "s3://*/"},
        {"bids": "s3://a-bucket/x,arn:aws:s3:::other/"},
        {"role": "arn:aws:iam::111122223333:role/*"},
        {"member": "buyer-1\x1b[2J", "kms": "no"},
    ],
)
def test_a_report_cannot_widen_a_right(change: dict[str, str]) -> None:
    """No wildcard, no variable, no second item of a list and no line for the shell comes from a buyer."""
    good = {
        "member": "buyer-1",
        "kms": "arn:aws:kms:eu-central-1:222233334444:key/1",
        "bids": "s3://bids/bids/",
        "role": "arn:aws:iam::111122223333:role/parent",
    }
    assert BuyerReport(**good, decisions=("00" * 32,)).account == "222233334444"
    with pytest.raises(Rejected) as caught:
        BuyerReport(**{**good, **change}, decisions=("00" * 32,))
    assert caught.value.code == "buyer-report"


def test_a_key_of_the_service_or_of_another_buyer_is_no_report(bench: Bench) -> None:
    """A buyer has the parent decrypt with its own key and with no other."""
    world, settings = bench.world, bench.plan.settings

    def plan(**changes: Mapping[str, str]) -> planning.StackPlan:
        reports = {
            name: world.first.report(name, role=settings.role_arn, **changes.get(name.replace("-", "_"), {}))
            for name in BUYERS
        }
        return planning.make_stack_plan(world.first.authority, world.first.image, settings, reports)

    own = f"arn:aws:kms:eu-central-1:{settings.account}:key/1"
    with raises_code(FoundFalse, "wrong-owner", match="buyer-2's key is in the service's own account"):
        plan(buyer_2={"kms": own})
    other = f"arn:aws:kms:eu-central-1:{ACCOUNTS['buyer-1']}:key/0-buyer-1"
    with raises_code(FoundFalse, "wrong-owner", match="buyer-2 reports the key of buyer-1"):
        plan(buyer_2={"kms": other})


def test_the_parents_role_reads_bids_in_the_buyers_accounts_only(bench: Bench) -> None:
    """A buyer that reports a bucket of the service's as its own does not get it read."""
    world, settings = bench.world, bench.plan.settings
    names = {"service": f"{settings.name}-private", "buyer-1": f"{settings.name}-bids"}
    reports = {
        name: world.first.report(name, role=settings.role_arn, bids=f"s3://{bucket}/bids/")
        for name, bucket in zip(BUYERS, names.values(), strict=True)
    }
    plan = planning.make_stack_plan(world.first.authority, world.first.image, settings, reports)
    rollout.apply_stacks(plan, world.first.image, bench.cloud())
    for account, bucket in names.items():
        s3 = world.services.client("s3", account)
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": settings.region})
        s3.put_object(Bucket=bucket, Key="bids/x", Body=b"x")
    reading = {**allow(settings.role_arn, "s3:GetObject"), "Resource": f"arn:aws:s3:::{names['buyer-1']}/*"}
    world.services.client("s3", "buyer-1").put_bucket_policy(Bucket=names["buyer-1"], Policy=policy(reading))
    parent = world.services.client("s3", "service", session=bench.session())
    assert parent.get_object(Bucket=names["buyer-1"], Key="bids/x")["Body"].read() == b"x"
    with pytest.raises(ClientError, match="AccessDenied"):
        parent.get_object(Bucket=names["service"], Key="bids/x")


class Garbage(LocalHost):
    """An instance that answers nonsense."""

    def running(self) -> Mapping[str, Enclave]:
        return parse_enclaves("nonsense")


class OnInstance(Garbage):
    """And its enclaves are its own."""

    on_instance = True


def test_an_instance_that_answers_nonsense_cannot_keep_itself(bench: Bench) -> None:
    """status tells it among the rest, destroy deletes it; local enclaves must end by themselves."""
    bench.apply()
    cloud = bench.cloud(Garbage(bench.host.directory))
    assert "not the output of nitro-cli" in details(rollout.stacks_status(bench.plan, cloud))
    with raises_code(EnvironmentFailure, "enclave-not-started"):
        rollout.destroy_stacks(bench.plan.settings, cloud, delete_data=False)
    assert bench.instances()
    rollout.destroy_stacks(
        bench.plan.settings, bench.cloud(OnInstance(bench.host.directory)), delete_data=True
    )
    assert bench.instances() == []
    assert bench.stack(bench.plan.settings.main_stack) is None


def test_another_accounts_deployment_is_not_touched(bench: Bench) -> None:
    """status and destroy ask whose credentials they have, as apply does."""
    buyer = bench.world.services.accounts["buyer-1"]
    cloud = bench.cloud(keys=(buyer.access_key, buyer.secret_key))
    with raises_code(FoundFalse, "wrong-account"):
        rollout.destroy_stacks(bench.plan.settings, cloud, delete_data=True)
    with raises_code(FoundFalse, "wrong-account"):
        rollout.stacks_status(bench.plan, cloud)


def test_a_policy_that_is_added_to_the_role_is_drift_and_phase_2s_own_is_not(bench: Bench) -> None:
    """CloudFormation reports both as added, as it looks at one stack at a time: the content decides."""
    bench.apply()
    settings = bench.plan.settings
    assert bench.status()["drift"] == {settings.base_stack: [], settings.main_stack: []}
    iam = bench.world.services.client("iam", "service")
    named = {"RoleName": settings.role_name, "PolicyName": "parent-carry"}
    before = iam.get_role_policy(**named)["PolicyDocument"]
    wider = json.loads(json.dumps(before))
    wider["Statement"][1]["Resource"] = "*"
    iam.put_role_policy(**named, PolicyDocument=json.dumps(wider))
    with raises_code(FoundFalse, "stack-changed", match="ParentRole"):
        bench.apply()
    iam.put_role_policy(**named, PolicyDocument=json.dumps(before))
    assert bench.apply().live
