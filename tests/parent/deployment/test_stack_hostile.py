"""Everything that deployment reads back is hostile: outputs, answers of the instance, documents, reports."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from coattest.aws import AwsFailure
from coattest.errors import EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest_parent.deployment.stack import planning, rollout, stacks
from coattest_parent.deployment.stack.parents import Parents
from coattest_parent.deployment.stack.stacks import Stacks
from coattest_verify.fleet.live import DOCUMENT, LiveObjects
from coattest_verify.keypolicy.report import BuyerReport
from support.local.kms_world import allow, policy
from support.parent.deployments import ACCOUNTS, now
from support.parent.stack_world import BUYERS, Bench, client_of
from support.raises import raises_code

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
ELSEWHERE = "i-0ffffffffffffffff"
GROUP = "sg-0123456789abcdef0"


def state(**changes: Any) -> stacks.StackState:
    """A stack's state with outputs as they should be, or not."""
    outputs = {"SecurityGroup": GROUP, "ArtifactBucket": "a-bucket", **changes}
    return stacks.StackState("s", "CREATE_COMPLETE", outputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SecurityGroup", "sg-0123456789abcdef0; reboot"),
        ("SecurityGroup", "sg-0123456789abcdef0\n"),
        ("SecurityGroup", ""),
        ("Profile", "arn:aws:iam::111122223333:instance-profile/a b"),
        ("Profile", "*"),
        ("ArtifactBucket", "a-bucket --endpoint-url http://elsewhere"),
        ("ArtifactBucket", "-o"),
        ("ArtifactBucket", "a/../b"),
        ("ArtifactBucket", "$(id)"),
        ("ArtifactBucket", ESCAPE),
    ],
)
def test_an_output_of_another_form_goes_no_further(name: str, value: str) -> None:
    """Neither into a command, nor into a parameter, nor as it is onto the terminal."""
    assert state().output("SecurityGroup") == GROUP
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


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """Who can write to the bucket: it puts what it likes at an instance's place."""

    bench: Bench
    stack: str

    def place(self, instance: str, name: str = "document.cbor") -> dict[str, str]:
        """The object of an instance."""
        base = self.bench.stack(self.bench.plan.settings.base_stack)
        assert base
        return {"Bucket": base.outputs["ResultBucket"], "Key": f"live/{self.stack}/{instance}/{name}"}

    def read(self, instance: str) -> bytes:
        """The document that is there."""
        s3 = client_of(self.bench.world.services, "s3", "service")
        content: bytes = s3.get_object(**self.place(instance))["Body"].read()
        return content

    def parents(self, content: dict[str, bytes], at: datetime | None = None) -> Parents:
        """The deployment's parents, whose objects are these instead, looked at at another time."""
        base = self.bench.stack(self.bench.plan.settings.base_stack)
        assert base
        cloud = self.bench.cloud()
        found = cloud.parents(self.bench.plan, base)

        class These(LiveObjects):
            def read(self, instance: str, name: str = DOCUMENT) -> bytes | None:
                return content.get(f"{instance}/{name}")

        class Replaced(Parents):
            @property
            def objects(self) -> LiveObjects:
                return These(None, self.bucket, self.settings.account, self.name)

        values = {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
        return Replaced(**values | ({"clock": lambda: at} if at else {}))


def test_a_document_that_was_kept_is_silence_and_one_from_elsewhere_is_false(bench: Bench) -> None:
    """Who can write to the bucket can cause silence, never acceptance."""
    (served,) = bench.apply().parents
    bucket = Bucket(bench, bench.plan.parents_stack)
    kept = bucket.read(served.instance)
    name = f"{served.instance}/document.cbor"
    fresh = bucket.parents({name: kept})
    assert fresh.look(served)
    # Older than the call that asks for it, or than three minutes: nobody is there.
    assert fresh.look(served, since=now() + timedelta(minutes=1)) is None
    assert bucket.parents({name: kept}, at=now() + timedelta(minutes=4)).look(served) is None
    assert bucket.parents({}).look(served) is None
    # Nobody is verified by a decision that expired meanwhile.
    with raises_code(FoundFalse, "no-decision", match="expired at"):
        bucket.parents({name: kept}, at=bench.plan.decision.expires).look(served)
    # Of another instance: false, whatever its age.
    elsewhere = dataclasses.replace(served, instance=ELSEWHERE)
    for minutes in (0, 4):
        replayed = bucket.parents({f"{ELSEWHERE}/document.cbor": kept}, at=now() + timedelta(minutes=minutes))
        with raises_code(FoundFalse, "live-document", match="PCR4"):
            replayed.look(elsewhere)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xd2" * 16_384, b"\x84" * 100])
def test_what_is_no_document_is_false(bench: Bench, content: bytes) -> None:
    """Any bytes at an instance's place: one error, in one line that a terminal can show."""
    (served,) = bench.apply().parents
    bucket = Bucket(bench, bench.plan.parents_stack)
    with raises_code(FoundFalse, "live-document") as refused:
        bucket.parents({f"{served.instance}/document.cbor": content}).look(served)
    assert str(refused.value).isprintable()


def test_the_last_words_of_an_instance_are_text(bench: Bench) -> None:
    """A log with escapes, without an end of line, of any length: its last line, made safe to show."""
    (served,) = bench.apply().parents
    bucket = Bucket(bench, bench.plan.parents_stack)
    for log, said in (
        (f"first\n{ESCAPE}last\n\n".encode(), "last"),
        (b"x" * 16_384, "x"),
        (b"\xff\xfe", "its boot failed"),
        (b"", "it says nothing"),
    ):
        parents = bucket.parents({f"{served.instance}/failed.log": log})
        with raises_code(EnvironmentFailure, "boot-failed", match=said) as failed:
            parents.look(served)
        assert str(failed.value).isprintable()
        assert len(failed.value.what) < 400


def test_the_document_of_another_enclave_is_refused_and_rolled_back(bench: Bench) -> None:
    """The decided image with the decided role, on another instance."""
    bench.fault(bench.plan.parents_stack, launch=f"instance={ELSEWHERE}")
    with raises_code(FoundFalse, "live-document", match="PCR4"):
        bench.apply()
    assert bench.instances() == []
    assert bench.stack(bench.plan.parents_stack) is None


def test_a_debug_enclave_is_refused_also_by_a_decision_of_zeros(bench: Bench) -> None:
    """No decision makes registers of zeros right."""
    (served,) = bench.apply().parents
    zeros = dict.fromkeys(range(3), "0" * 96)
    parents = Bucket(bench, bench.plan.parents_stack).parents({f"{served.instance}/document.cbor": b"x"})
    decision = dataclasses.replace(bench.plan.decision, pcrs=zeros)
    with raises_code(UsageError, "bad-expectation", match="a register of zeros pins nothing"):
        dataclasses.replace(parents, decision=decision).look(served)


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
    assert bench.stack(bench.plan.parents_stack) is None
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


def test_a_decision_that_has_expired_makes_nothing(bench: Bench) -> None:
    """Nothing is asked of the cloud then."""
    decision = dataclasses.replace(bench.plan.decision, expires=now() - timedelta(seconds=1))
    with raises_code(FoundFalse, "no-decision", match="expired at"):
        rollout.apply_stacks(
            dataclasses.replace(bench.plan, decision=decision), bench.world.first.image, bench.cloud()
        )
    assert bench.stack(bench.plan.settings.base_stack) is None


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
    bench.apply(plan)
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


def test_another_accounts_deployment_is_not_touched(bench: Bench) -> None:
    """status and destroy ask whose credentials they have, as apply does."""
    buyer = bench.world.services.accounts["buyer-1"]
    cloud = bench.cloud(keys=(buyer.access_key, buyer.secret_key))
    with raises_code(FoundFalse, "wrong-account"):
        rollout.destroy_stacks(bench.plan.settings, cloud, delete_data=True)
    with raises_code(FoundFalse, "wrong-account"):
        rollout.stacks_status(bench.plan, cloud)


def test_a_policy_of_the_role_that_was_widened_is_drift_and_the_buyers_own_is_not(bench: Bench) -> None:
    """What the base gives to its role is no change by hand; the same policy with other words is."""
    bench.apply()
    settings = bench.plan.settings
    assert bench.status()["drift"] == {settings.base_stack: [], bench.plan.parents_stack: []}
    iam = bench.world.services.client("iam", "service")
    named = {"RoleName": settings.role_name, "PolicyName": "carry"}
    before = iam.get_role_policy(**named)["PolicyDocument"]
    wider = json.loads(json.dumps(before))
    wider["Statement"][1]["Resource"] = "*"
    iam.put_role_policy(**named, PolicyDocument=json.dumps(wider))
    with raises_code(FoundFalse, "stack-changed", match="ParentRole"):
        bench.apply()
    iam.put_role_policy(**named, PolicyDocument=json.dumps(before))
    assert bench.apply().parents
