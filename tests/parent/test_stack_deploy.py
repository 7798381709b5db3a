"""Deployment against a separate process of moto's server, with real boto3 calls and real local enclaves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from coattest_local import services
from coattest_local.services import Services
from coattest_parent.aws import Aws, AwsFailure, Endpoint
from coattest_parent.deployment import LiveMismatch
from coattest_parent.runner import Enclave as Running
from coattest_parent.runner import LocalRunner
from coattest_parent.stack import plan as planning
from coattest_parent.stack import rollout, stacks
from coattest_parent.stack.hosts import LocalHost
from coattest_parent.stack.settings import Settings
from coattest_verify.authority import authority_from
from coattest_verify.quorum.errors import NoDecision
from coattest_verify.shell import UsageError
from support.deployments import ACCOUNTS, SETTINGS, Release, now
from support.kms_world import Enclave, allow, policy
from support.operators import NOW, report_json
from support.python_image import make_python_image

BUYERS = tuple(sorted(ACCOUNTS))


@dataclass(frozen=True, slots=True)
class World:
    """The services, two decided releases of one quorum, and a folder."""

    services: Services
    first: Release
    second: Release
    settings: Settings
    folder: Path

    def command(self, program: str, *arguments: str, account: str = "service", expect: int = 0) -> Any:
        """Run a command as an account's admin; its JSON."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                **self.services.environment(account),
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def deploy(self, verb: str, *arguments: str, expect: int = 0) -> Any:
        """deploy-from-attestation VERB --target aws."""
        return self.command(
            "deploy-from-attestation", verb, "--target", "aws", *arguments, "--json", expect=expect
        )

    @property
    def place(self) -> list[str]:
        """Where AWS and the local enclaves are."""
        return [
            "--endpoint-url",
            self.services.endpoint,
            "--ca-bundle",
            str(self.services.ca_bundle),
            "--state",
            str(self.folder / "state"),
        ]

    def plan(self, release: Release, *reports: Path) -> None:
        """Write the plan's folder for a release."""
        chosen = [f"--{name}={getattr(self.settings, name)}" for name in planning_options]
        given = [argument for report in reports for argument in ("--report", str(report))]
        self.deploy(
            "plan", *chosen, "--out", "plan", "--image", str(release.image), *given, *release.deciding
        )

    def apply(self, release: Release, expect: int = 0) -> Any:
        """Apply the plan's folder."""
        return self.deploy(
            "apply",
            "--plan",
            "plan",
            "--image",
            str(release.image),
            *self.place,
            *release.deciding,
            expect=expect,
        )

    def status(self, release: Release, expect: int = 0) -> Any:
        """Status for a release."""
        return self.deploy(
            "status",
            "--plan",
            "plan",
            "--image",
            str(release.image),
            *self.place,
            *release.deciding,
            expect=expect,
        )

    def stack_of(self, name: str, *releases: Release) -> Path:
        """A buyer creates or updates its own stack for these releases, and signs its report; the report."""
        account = ACCOUNTS[name]
        also = [argument for each in releases[1:] for argument in also_of(each)]
        text = self.command(
            "verify",
            "policy",
            "--stack",
            "--simulator",
            "--operator",
            name,
            "--account",
            account,
            "--parent-role",
            self.settings.role_arn,
            "--administrator",
            f"arn:aws:iam::{account}:user/admin",
            "--administrator",
            f"arn:aws:iam::{account}:user/second",
            "--encrypter",
            f"arn:aws:iam::{account}:user/bidder",
            *releases[0].deciding,
            *also,
            account=name,
        )
        client = self.services.client("cloudformation", name)
        made = stacks.Stacks(client, lambda _: None).put("coattest-buyer", json_canonical(text), {})[0]
        report = self.folder / f"{name}.report.json"
        self.command(
            "verify",
            "report",
            "--key",
            str(releases[0].operators.folder / "keys" / name),
            "--operator",
            name,
            "--kms-key",
            made.outputs["KeyArn"],
            "--bids",
            made.outputs["Bids"],
            "--parent-role",
            self.settings.role_arn,
            "--out",
            str(report),
            *releases[0].deciding,
            *also,
            account=name,
        )
        return report

    def key(self, name: str) -> str:
        """The ARN of a buyer's key."""
        client = self.services.client("cloudformation", name)
        found = stacks.Stacks(client, lambda _: None).find("coattest-buyer")
        assert found
        return found.outputs["KeyArn"]

    def decrypts(self, release: Release, ciphertexts: dict[str, bytes]) -> bool:
        """Whether the parent's role decrypts every buyer's ciphertext in this release's enclave, or none."""
        enclave = Enclave(release.authority.decision.pcrs)
        iam, sts = self.services.client("iam", "service"), self.services.client("sts", "service")
        # On an instance the profile gives the role's credentials; here an administrator assumes it.
        trust = allow(f"arn:aws:iam::{self.settings.account}:root", "sts:AssumeRole")
        trust.pop("Resource")
        iam.update_assume_role_policy(RoleName=self.settings.role_name, PolicyDocument=policy(trust))
        session = sts.assume_role(RoleArn=self.settings.role_arn, RoleSessionName="parent")["Credentials"]
        answers = set()
        for name, ciphertext in ciphertexts.items():
            kms = self.services.client("kms", "service", session=session)
            try:
                answer = kms.decrypt(
                    CiphertextBlob=ciphertext, KeyId=self.key(name), Recipient=enclave.recipient()
                )
                answers.add(enclave.open(answer["CiphertextForRecipient"]) == b"bid of " + name.encode())
            except ClientError as error:
                if error.response["Error"]["Code"] != "AccessDeniedException":
                    raise
                answers.add(False)
        (answer,) = answers
        return bool(answer)

    def running(self) -> list[str]:
        """The releases that run now."""
        return sorted(LocalHost(self.folder / "state" / "enclaves").running())


planning_options = ("name", "account", "region", "vpc", "subnet", "ami")


def also_of(release: Release) -> Sequence[str]:
    """The options for a second release."""
    return ("--also-attestations", str(release.operators.attestations))


def json_canonical(text: str) -> str:
    """A template's text without the line's end that a shell prints."""
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three accounts, two releases; whatever enclave is left ends with the module."""
    folder = tmp_path_factory.mktemp("deploy")
    images = [make_python_image(folder / f"{name}.eif", marker=name.encode()) for name in ("first", "second")]
    first = Release.make(folder / "one", images[0])
    second = Release.make(folder / "two", images[1], "0.2.0", first.operators)
    accounts = [f"service={SETTINGS.account}", *(f"{name}={ACCOUNTS[name]}" for name in BUYERS)]
    with services.start(folder / "services", accounts=accounts, quiet=True) as running:
        subnet = running.client("ec2", "service").describe_subnets()["Subnets"][0]
        settings = dataclasses.replace(SETTINGS, vpc=subnet["VpcId"], subnet=subnet["SubnetId"])
        for name in BUYERS:
            iam = running.client("iam", name)
            for user in ("second", "bidder"):
                iam.create_user(UserName=user)
            iam.put_user_policy(
                UserName="bidder",
                PolicyName="bid",
                PolicyDocument=json.dumps(
                    {
                        "Version": "2012-10-17",
                        "Statement": [{"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}],
                    }
                ),
            )
        made = World(running, first, second, settings, folder)
        try:
            yield made
        finally:
            host = LocalHost(folder / "state" / "enclaves")
            for release in host.running():
                host.terminate(release)


def encrypted(world: World) -> dict[str, bytes]:
    """A ciphertext of each buyer, made by its bidder."""
    found = {}
    for name in BUYERS:
        key = world.services.client("iam", name).create_access_key(UserName="bidder")["AccessKey"]
        session = {"AccessKeyId": key["AccessKeyId"], "SecretAccessKey": key["SecretAccessKey"]}
        kms = world.services.client("kms", name, session=session)
        answer = kms.encrypt(KeyId=world.key(name), Plaintext=b"bid of " + name.encode())
        found[name] = answer["CiphertextBlob"]
    return found


def test_a_deployment_from_its_plan_to_its_end(world: World) -> None:
    """Two phases, upgrade, rollback, retirement, destroy; at every step one of the releases decrypts."""
    first, second = world.first, world.second
    one, two = (planning.release_id(each.authority.decision) for each in (first, second))
    world.plan(first)
    started = world.apply(first)
    assert started["verified"] is False
    assert started["role"] == world.settings.role_arn
    assert world.running() == []
    world.plan(first, *(world.stack_of(name, first) for name in BUYERS))
    applied = world.apply(first)
    assert applied["verified"] is True
    assert world.running() == [one]
    again = world.apply(first)
    assert again["module_id"] == applied["module_id"]
    assert again["instance"] == applied["instance"]
    state = world.status(first)
    assert state["problems"] == []
    assert state["live"]["module_id"] == applied["module_id"]

    ciphertexts = encrypted(world)
    assert world.decrypts(first, ciphertexts)
    assert not world.decrypts(second, ciphertexts)
    # Policies first: without the buyers' reports of the next release there is no plan.
    refused = [f"--{name}={getattr(world.settings, name)}" for name in planning_options]
    old = [
        argument for name in BUYERS for argument in ("--report", str(world.folder / f"{name}.report.json"))
    ]
    answer = world.deploy(
        "plan", *refused, "--out", "no", "--image", str(second.image), *old, *second.deciding, expect=1
    )
    assert answer["reason"] == "policy-first"
    reports = [world.stack_of(name, first, second) for name in BUYERS]
    assert world.decrypts(first, ciphertexts)
    assert world.decrypts(second, ciphertexts)
    world.plan(second, *reports)
    upgraded = world.apply(second)
    assert upgraded["retired"] == [one]
    assert upgraded["instance"] == applied["instance"]
    assert world.running() == [two]
    # The plan in the folder is for the second decision: the first gives another.
    assert world.apply(first, expect=1)["reason"] == "plan-differs"
    world.plan(first, *reports)
    assert world.apply(first)["retired"] == [two]
    assert world.running() == [one]
    assert world.decrypts(first, ciphertexts)
    assert world.decrypts(second, ciphertexts)
    world.plan(second, *reports)
    assert world.apply(second)["retired"] == [one]
    world.plan(second, *(world.stack_of(name, second) for name in BUYERS))
    assert not world.decrypts(first, ciphertexts)
    assert world.decrypts(second, ciphertexts)
    assert world.apply(second)["retired"] == []

    ended = world.deploy("destroy", "--plan", "plan", *world.place)
    assert f"enclave {two}" in ended["gone"]
    assert len(ended["remains"]) == 2
    assert world.running() == []
    assert world.status(second, expect=1)["stacks"] == {
        world.settings.base_stack: None,
        world.settings.main_stack: None,
    }


class Debug(LocalRunner):
    """A launcher that starts the decided image in debug mode and does not say so."""

    def _call(self, timeout: float, verb: str, *arguments: str) -> None:
        super()._call(timeout, verb, *arguments, *(["--debug-mode"] if verb == "run-enclave" else []))

    def describe(self) -> Running | None:
        found = super().describe()
        return dataclasses.replace(found, flags="NONE") if found else None


class DebugHost(LocalHost):
    """Its launcher lies."""

    def _runner(self, release: str) -> LocalRunner:
        return Debug(self.directory / release)


class SwitchedHost(LocalHost):
    """It starts another image than it is given."""

    other: Path

    def run(self, release: str, image: Path, *, role_arn: str, instance_id: str) -> Running:
        return super().run(release, self.other, role_arn=role_arn, instance_id=instance_id)


@dataclass(frozen=True, slots=True)
class Bench:
    """A deployment of its own name, in process: what is refused."""

    world: World
    plan: planning.StackPlan
    host: LocalHost

    def cloud(self, host: LocalHost | None = None, keys: tuple[str, str] | None = None) -> rollout.Cloud:
        """The service's account, or other credentials."""
        admin = self.world.services.accounts["service"]
        access, secret = keys or (admin.access_key, admin.secret_key)
        session = boto3.Session(
            aws_access_key_id=access, aws_secret_access_key=secret, region_name=self.plan.settings.region
        )
        endpoint = Endpoint(self.world.services.endpoint, self.world.services.ca_bundle)
        return rollout.Cloud(Aws(session, endpoint), host or self.host, lambda _: None, now)

    def apply(self, **options: Any) -> rollout.Applied:
        """Apply the plan."""
        return rollout.apply(self.plan, self.world.first.image, self.cloud(**options))

    def stack(self, name: str) -> stacks.StackState | None:
        """A stack as it is now."""
        client = self.world.services.client("cloudformation", "service")
        return stacks.Stacks(client, lambda _: None).find(name)


@pytest.fixture
def bench(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A plan with both buyers' reports; everything of it ends with the test."""
    name = f"t{abs(hash(request.node.name)) % 10**8}"
    settings = dataclasses.replace(world.settings, name=name)
    reports = {f"{name}.json": world.first.report(name, role=settings.role_arn) for name in BUYERS}
    plan = planning.make_stack_plan(world.first.authority, world.first.image, settings, reports)
    made = Bench(world, plan, LocalHost(tmp_path / "enclaves"))
    yield made
    (world.services.directory / "throttle").unlink(missing_ok=True)
    rollout.destroy(settings, made.cloud(), delete_data=True)


@pytest.mark.parametrize("kind", [DebugHost, SwitchedHost])
def test_what_does_not_verify_is_rolled_back(bench: Bench, kind: type[LocalHost]) -> None:
    """A debug enclave and another image end, and the stack of phase 2 is gone again."""
    host = kind(bench.host.directory)
    if isinstance(host, SwitchedHost):
        host.other = bench.world.second.image
    with pytest.raises(LiveMismatch, match="PCR0"):
        bench.apply(host=host)
    assert host.running() == {}
    assert bench.stack(bench.plan.settings.main_stack) is None
    assert bench.apply().live


def test_a_bad_release_leaves_the_running_one_alone(bench: Bench) -> None:
    """The release that ran goes on, and so does its stack, when the next does not verify."""
    bench.apply()
    before = bench.stack(bench.plan.settings.main_stack)
    world, settings = bench.world, bench.plan.settings
    reports = {f"{name}.json": world.second.report(name, role=settings.role_arn) for name in BUYERS}
    following = planning.make_stack_plan(world.second.authority, world.second.image, settings, reports)
    with pytest.raises(LiveMismatch):
        rollout.apply(following, world.second.image, bench.cloud(DebugHost(bench.host.directory)))
    assert list(bench.host.running()) == [bench.plan.release_id]
    assert bench.stack(settings.main_stack) == before


def test_the_programs_are_uploaded_under_their_digest(bench: Bench, tmp_path: Path) -> None:
    """Beside the image, before the instance that fetches them is made."""
    archive = tmp_path / "parent.tar"
    archive.write_bytes(b"wheels")
    digest = hashlib.sha256(b"wheels").hexdigest()
    settings = dataclasses.replace(bench.plan.settings, programs=digest)
    plan = dataclasses.replace(bench.plan, settings=settings)
    with pytest.raises(UsageError, match="programs"):
        rollout.apply(plan, bench.world.first.image, bench.cloud())
    assert bench.stack(settings.main_stack) is None
    assert rollout.apply(plan, bench.world.first.image, bench.cloud(), archive).live
    base = bench.stack(settings.base_stack)
    assert base
    s3 = bench.world.services.client("s3", "service")
    place = {"Bucket": base.outputs["ArtifactBucket"], "Key": f"releases/parent/{digest}.tar"}
    assert s3.get_object(**place)["Body"].read() == b"wheels"


@pytest.mark.parametrize("by_hand", ["role", "group"])
def test_a_stack_changed_by_hand_is_refused(bench: Bench, by_hand: str) -> None:
    """An extra right, or an open port: named, and nothing else happens; status says it too."""
    applied = bench.apply()
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
        (group,) = [item for item in found if settings.main_stack in item["Description"].replace(" ", "-")]
        ec2.authorize_security_group_ingress(
            GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
        )
    with pytest.raises(stacks.StackChanged, match="ParentRole" if by_hand == "role" else "Closed"):
        bench.apply()
    assert applied.live
    assert list(bench.host.running()) == [bench.plan.release_id]
    assert "changed by hand" in " ".join(rollout.status(bench.plan, bench.cloud())["problems"])
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
    assert bench.apply().live


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
        ("UPDATE_ROLLBACK_FAILED", "stop"),
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
    assert bench.host.running() == {}


@pytest.mark.parametrize("service", ["cloudformation", "ec2"])
def test_throttling_that_does_not_end_is_an_error(bench: Bench, service: str) -> None:
    """botocore's retries are used up, then one line says so; the next apply goes on."""
    (bench.world.services.directory / "throttle").write_text(service)
    with pytest.raises(AwsFailure, match="Throttling") as refused:
        bench.apply()
    assert refused.value.exit_code == 3
    assert bench.host.running() == {}
    (bench.world.services.directory / "throttle").unlink()
    assert bench.apply().live


def test_a_subnet_of_another_region_is_refused(bench: Bench) -> None:
    """The region is that of the VPC, and the account that of the credentials."""
    elsewhere = dataclasses.replace(bench.plan.settings, region="eu-west-1")
    with pytest.raises(planning.WrongRegion, match="eu-west-1"):
        rollout.preflight(elsewhere, bench.cloud().aws)
    stranger = dataclasses.replace(bench.plan.settings, account="999988887777")
    with pytest.raises(rollout.WrongAccount):
        rollout.preflight(stranger, bench.cloud().aws)


def test_an_expired_decision_is_no_authority(world: World) -> None:
    """At the day that quorum.toml names there is no decision to plan or apply with."""
    operators = world.first.operators
    options = {"attestations": operators.attestations, "root": operators.root, "profile": "local"}
    with pytest.raises(NoDecision, match="expired"):
        authority_from(options, world.first.authority.decision.expires)


def test_a_dissent_is_no_authority(world: World, tmp_path: Path) -> None:
    """One operator who got another image stops apply with exit 1, before anything is asked of the cloud."""
    release = Release.make(tmp_path, world.first.image, by=world.first.operators)
    release.operators.sign("buyer-2", report_json("another"), age=NOW - (now() - timedelta(hours=1)))
    chosen = [f"--{name}={getattr(world.settings, name)}" for name in planning_options]
    image = ["--image", str(release.image)]
    answer = world.deploy("plan", *chosen, "--out", "none", *image, *release.deciding, expect=1)
    assert answer["reason"] == "no-decision"
    assert "buyer-2 dissents" in answer["error"]
    assert not (world.folder / "none").exists()
