"""Three accounts against a separate process of moto's server: what tests of deployments share."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from coattest.errors import EnvironmentFailure
from coattest.files import write_atomic
from coattest_local import records
from coattest_local.aws import services
from coattest_local.aws.services import Services
from coattest_parent.auction.bucket_spool import BucketSpool
from coattest_parent.auction.spool import Courier
from coattest_parent.auction.steps import Sessions, Way
from coattest_parent.deployment.stack import checks, planning, rollout, stacks
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.link.aws import Aws, Endpoint, parse_s3_uri
from coattest_parent.link.telemetry import Telemetry
from support.build.python_image import make_python_image
from support.forked import Forks, forking
from support.local.kms_world import Enclave, allow, policy
from support.local.local_enclave import BuyerAccount, Cloud, make_bidder
from support.parent import faulty_services
from support.parent.deployments import ACCOUNTS, SETTINGS, Release, now
from support.parent.stack_faults import FILE, THROTTLE
from support.yes import the_yes_to

BUYERS = tuple(sorted(ACCOUNTS))
CALLS = {"deploy-from-attestation": "coattest_parent.cli.deploy:main", "verify": "coattest_verify.cli:main"}
FORKED = (
    "coattest_parent.cli.deploy",
    "coattest_parent.deployment.local",
    "coattest_parent.deployment.smoke",
    "coattest_parent.deployment.stack.checks",
    "coattest_parent.deployment.stack.rollout",
    "coattest_verify.cli",
    "coattest_verify.keypolicy.report",
    "support.parent.killed",
)
"""What the commands import, once for all of them."""


@dataclass(frozen=True, slots=True)
class World:
    """The services, two decided releases of one quorum, and a folder."""

    services: Services
    first: Release
    second: Release
    settings: Settings
    folder: Path
    forks: Forks
    bidders: Mapping[str, tuple[str, tuple[str, str]]]

    def command(self, program: str, *arguments: str, account: str = "service", expect: int = 0) -> Any:
        """Run a command as an account's admin, who confirms what it signs; its JSON."""
        done = subprocess.run(
            [*self.forks.command(CALLS[program], program), *arguments],
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
        if yes := the_yes_to(done.stderr):
            return self.command(program, *arguments, *yes, account=account, expect=expect)
        assert done.returncode == expect, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def deploy(self, verb: str, *arguments: str, expect: int = 0) -> Any:
        """deploy-from-attestation VERB --target aws."""
        return self.command(
            "deploy-from-attestation", verb, "--target", "aws", *arguments, "--json", expect=expect
        )

    @property
    def place(self) -> list[str]:
        """Where AWS is."""
        return ["--endpoint-url", self.services.endpoint, "--ca-bundle", str(self.services.ca_bundle)]

    def plan(self, release: Release, *reports: Path) -> None:
        """Write the plan's folder for a release, without reports of an earlier plan."""
        shutil.rmtree(self.folder / "plan" / planning.REPORTS, ignore_errors=True)
        given = [argument for report in reports for argument in ("--report", str(report))]
        self.deploy(
            "plan",
            *self.chosen,
            *self.place,
            "--out",
            "plan",
            "--image",
            str(release.image),
            *given,
            *release.deciding,
        )

    @property
    def chosen(self) -> list[str]:
        """The settings as options of plan."""
        settings = self.settings
        names = ("name", "account", "region", "vpc", "ami", "capacity")
        subnets = [f"--subnet={subnet}" for subnet in settings.subnets]
        return [*(f"--{name}={getattr(settings, name)}" for name in names), *subnets]

    def apply(self, release: Release, *more: str, expect: int = 0) -> Any:
        """Apply the plan's folder."""
        return self.deploy(
            "apply",
            *more,
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
            "make",
            "--format",
            "stack",
            "--simulator",
            "--member",
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
        made = stacks.Stacks(client, lambda _: None).put("coattest-buyer", json_canonical(text), {})
        report, policy_file = self.folder / f"{name}.report.json", self.folder / f"{name}.policy.json"
        kms = self.services.client("kms", name)
        read = kms.get_key_policy(KeyId=made.outputs["KeyArn"], PolicyName="default")
        policy_file.write_text(read["Policy"])
        self.command(
            "verify",
            "report",
            "--key",
            str(releases[0].members.folder / "keys" / name),
            "--member",
            name,
            "--kms-key",
            made.outputs["KeyArn"],
            "--policy",
            str(policy_file),
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

    def owned(self, name: str) -> Mapping[str, str]:
        """The outputs of a buyer's stack: its key's ARN and its place for bids."""
        client = client_of(self.services, "cloudformation", name)
        found = stacks.Stacks(client, lambda _: None).find("coattest-buyer")
        assert found
        return found.outputs

    def key(self, name: str) -> str:
        """The ARN of a buyer's key."""
        return self.owned(name)["KeyArn"]

    def cloud(self) -> Cloud:
        """The parties' accounts as an auction sees them."""
        buyers = {}
        for name, (bidder, access) in self.bidders.items():
            bucket, _ = parse_s3_uri(self.owned(name)["Bids"])
            key = self.key(name)
            buyers[name] = BuyerAccount(key.rpartition("/")[2], key, bucket, bidder, access)
        return Cloud(self.services, self.settings.role_arn, buyers)

    def decrypts(self, release: Release, ciphertexts: dict[str, bytes]) -> bool:
        """Whether the parent's role decrypts every buyer's ciphertext in this release's enclave, or none."""
        (answer,) = set(self.decrypted(release, ciphertexts).values())
        return answer

    def decrypted(
        self,
        release: Release,
        ciphertexts: dict[str, bytes],
        kept: tuple[Enclave, dict[str, Any]] | None = None,
    ) -> dict[str, bool]:
        """Whose ciphertexts the parent's role decrypts in this release's enclave, or with a kept document."""
        enclave = kept[0] if kept else Enclave(release.authority.decision.pcrs, role=self.settings.role_arn)
        session = parent_session(self.services, self.settings)
        kms = self.services.client("kms", "service", session=session)
        answers: dict[str, bool] = {}
        for name, ciphertext in ciphertexts.items():
            recipient = kept[1] if kept else enclave.recipient()
            try:
                answer = kms.decrypt(CiphertextBlob=ciphertext, KeyId=self.key(name), Recipient=recipient)
                answers[name] = enclave.open(answer["CiphertextForRecipient"]) == b"bid of " + name.encode()
            except ClientError as error:
                if error.response["Error"]["Code"] != "AccessDeniedException":
                    raise
                answers[name] = False
        return answers


class Quick(rollout.Cloud):
    """The service's account, looked at again twenty times as soon."""

    def stacks(self, settings: Settings) -> stacks.Stacks:
        """The stacks."""
        return stacks.Stacks(
            self.aws.cloudformation(settings.region), self.say, lambda seconds: time.sleep(seconds / 20)
        )


class Session(boto3.Session):
    """A session that makes each client once: making one takes longer than most of its calls."""

    def client(self, service: str, **options: Any) -> Any:  # type: ignore[override]
        """The client of a service and a region."""
        kept = self.__dict__.setdefault("kept", {})
        asked = (service, options["region_name"])
        if asked not in kept:
            kept[asked] = super().client(service, **options)
        return kept[asked]


@functools.cache
def aws_of(endpoint: Endpoint, access: str, secret: str, region: str) -> Aws:
    """AWS as these credentials see it."""
    return Aws(Session(access, secret, region_name=region), endpoint)


def client_of(running: Services, service: str, account: str) -> Any:
    """A client as an account's admin."""
    keys, endpoint = running.accounts[account], Endpoint(running.endpoint, running.ca_bundle)
    aws = aws_of(endpoint, keys.access_key, keys.secret_key, running.region)
    return aws.session.client(service, region_name=running.region, **aws._options())


def parent_session(running: Services, settings: Settings) -> Any:
    """Credentials of the parent's role; on an instance its profile gives them, here an admin assumes it."""
    iam, sts = client_of(running, "iam", "service"), client_of(running, "sts", "service")
    trust = allow(f"arn:aws:iam::{settings.account}:root", "sts:AssumeRole")
    trust.pop("Resource")
    iam.update_assume_role_policy(RoleName=settings.role_name, PolicyDocument=policy(trust))
    return sts.assume_role(RoleArn=settings.role_arn, RoleSessionName="parent")["Credentials"]


def also_of(release: Release) -> Sequence[str]:
    """The options for a second release."""
    return ("--release", release.name)


def json_canonical(text: str) -> str:
    """A template's text without the line's end that a shell prints."""
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def encrypted(world: World) -> dict[str, bytes]:
    """A ciphertext of each buyer, made by its bidder."""
    cloud, region = world.cloud(), world.services.region
    return {
        name: cloud.as_buyer(name)
        .kms(region)
        .encrypt(KeyId=world.key(name), Plaintext=b"bid of " + name.encode())["CiphertextBlob"]
        for name in BUYERS
    }


@dataclass(frozen=True, slots=True)
class Bench:
    """A deployment of its own name, in process: what is refused."""

    world: World
    plan: planning.StackPlan

    def cloud(self, keys: tuple[str, str] | None = None) -> rollout.Cloud:
        """The service's account, or other credentials."""
        admin = self.world.services.accounts["service"]
        access, secret = keys or (admin.access_key, admin.secret_key)
        endpoint = Endpoint(self.world.services.endpoint, self.world.services.ca_bundle)
        aws = aws_of(endpoint, access, secret, self.plan.settings.region)
        return Quick(aws, lambda _: None, now)

    def apply(self, plan: planning.StackPlan | None = None, **options: Any) -> rollout.Applied:
        """Apply the plan, or another of the same deployment."""
        given = plan or self.plan
        cloud = dataclasses.replace(
            self.cloud(options.pop("keys", None)), say=options.pop("say", lambda _: None)
        )
        return rollout.apply_stacks(given, self.image_of(given), cloud, **options)

    def image_of(self, plan: planning.StackPlan) -> Path:
        """The image of a plan's release."""
        releases = (self.world.first, self.world.second)
        (found,) = (each.image for each in releases if each.name == plan.decision.release)
        return found

    def following(self, **changes: Any) -> planning.StackPlan:
        """The plan of the second release for the same deployment; ``changes`` are the reports'."""
        return self.of(self.world.second, self.plan.settings, **changes)

    def of(self, release: Release, settings: Settings, **changes: Any) -> planning.StackPlan:
        """A plan of a release with other settings."""
        reports = {f"{name}.json": release.report(name, role=settings.role_arn, **changes) for name in BUYERS}
        return planning.make_stack_plan(release.authority, release.image, settings, reports)

    def fault(self, stack: str, **what: Any) -> None:
        """Tell the simulator how a stack fails from now on; nothing means not at all."""
        text = json.dumps({stack: what} if what else {})
        write_atomic(self.world.services.directory / FILE, text.encode())

    def session(self) -> Any:
        """Credentials of this deployment's parent role."""
        return parent_session(self.world.services, self.plan.settings)

    def courier(self, enclave: str) -> Courier:
        """The courier of a parent of the plan's release, with the rights of this deployment's role."""
        given, endpoint = self.session(), self.cloud().aws.endpoint
        region, release = self.plan.settings.region, self.plan.decision.release
        keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        aws = Aws(boto3.Session(*keys, region_name=region), endpoint)
        spool = BucketSpool(f"s3://{self.results}/jobs/{release}", Sessions(aws, None, region, Telemetry()))
        return Courier(spool, Way(enclave, None, aws), Telemetry(), publish=f"s3://{self.results}/results/")

    @property
    def results(self) -> str:
        """The bucket of results."""
        base = self.stack(self.plan.settings.base_stack)
        assert base
        return base.output("ResultBucket")

    def instances(self, stack: str | None = None) -> list[str]:
        """The instances of a stack's group; those of the plan's unless told otherwise."""
        groups = client_of(self.world.services, "autoscaling", "service").describe_auto_scaling_groups(
            AutoScalingGroupNames=[stack or self.plan.parents_stack]
        )["AutoScalingGroups"]
        return [str(item["InstanceId"]) for group in groups for item in group["Instances"]]

    def enclave_of(self, instance: str) -> Path:
        """The folder of an instance's enclave."""
        return self.world.services.directory / "instances" / instance / "enclave"

    def enclaves(self) -> list[str]:
        """The instances whose enclave runs now, of every deployment of this world."""
        found = (self.world.services.directory / "instances").glob("*")
        return sorted(path.name for path in found if records.running_record(path / "enclave"))

    def buckets(self) -> list[str]:
        """The buckets of this deployment."""
        s3 = client_of(self.world.services, "s3", "service")
        start = self.plan.settings.base_stack
        return [str(item["Name"]) for item in s3.list_buckets()["Buckets"] if item["Name"].startswith(start)]

    def stacks(self) -> stacks.Stacks:
        """The service's stacks."""
        return stacks.Stacks(client_of(self.world.services, "cloudformation", "service"), lambda _: None)

    def status(self, plan: planning.StackPlan | None = None) -> dict[str, Any]:
        """What status says."""
        return rollout.stacks_status(plan or self.plan, self.cloud())

    def stack(self, name: str) -> stacks.StackState | None:
        """A stack as it is now."""
        return self.stacks().find(name)


def details(status: dict[str, Any]) -> str:
    """What a status found, in one text."""
    return " ".join(finding["detail"] for finding in status["findings"])


def running_world(folder: Path) -> Iterator[World]:
    """Three accounts, two releases; the enclaves end with the services."""
    images = [make_python_image(folder / f"{name}.eif", marker=name.encode()) for name in ("first", "second")]
    first = Release.make(folder / "one", images[0])
    second = Release.make(folder / "two", images[1], "0.2.0", first.members)
    accounts = [f"service={SETTINGS.account}", *(f"{name}={ACCOUNTS[name]}" for name in BUYERS)]
    with (
        forking(FORKED, ("cloudformation", "ec2", "kms", "s3", "sts")) as forks,
        services.start(
            folder / "services", accounts=accounts, quiet=True, program=faulty_services.PROGRAM
        ) as running,
    ):
        found = running.client("ec2", "service").describe_subnets()["Subnets"][:2]
        subnets = tuple(subnet["SubnetId"] for subnet in found)
        admin = running.accounts["service"]
        endpoint = Endpoint(running.endpoint, running.ca_bundle)
        aws = aws_of(endpoint, admin.access_key, admin.secret_key, running.region)
        ami = checks.latest_ami(aws, running.region, "x86_64")
        settings = dataclasses.replace(SETTINGS, vpc=found[0]["VpcId"], subnets=subnets, ami=ami)
        for name in BUYERS:
            running.client("iam", name).create_user(UserName="second")
        bidders = {name: make_bidder(running, name) for name in BUYERS}
        yield World(running, first, second, settings, folder, forks, bidders)


def running_bench(world: World, name: str) -> Iterator[Bench]:
    """A plan with both buyers' reports; everything of it ends with the test."""
    settings = dataclasses.replace(world.settings, name=name)
    reports = {f"{name}.json": world.first.report(name, role=settings.role_arn) for name in BUYERS}
    plan = planning.make_stack_plan(world.first.authority, world.first.image, settings, reports)
    made = Bench(world, plan)
    yield made
    for file in (THROTTLE, FILE):
        (world.services.directory / file).unlink(missing_ok=True)
    try:
        rollout.destroy_stacks(settings, made.cloud(), delete_data=True)
    except EnvironmentFailure as error:
        # A test that made nothing, or has destroyed it, leaves nothing to end.
        if error.code != "no-deployment":
            raise
