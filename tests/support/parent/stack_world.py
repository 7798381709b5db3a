"""Three accounts against a separate process of moto's server: what tests of deployments share."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from coattest.errors import EnvironmentFailure
from coattest_local.aws import services
from coattest_local.aws.services import Services
from coattest_parent.deployment.runner import Enclave as Running
from coattest_parent.deployment.runner import LocalRunner
from coattest_parent.deployment.stack import planning, rollout, stacks
from coattest_parent.deployment.stack.hosts import LocalHost
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.link.aws import Aws, Endpoint
from support.build.python_image import make_python_image
from support.forked import Forks, forking
from support.local.kms_world import Enclave, allow, policy
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
    "coattest_parent.deployment.stack.remote",
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
        made = stacks.Stacks(client, lambda _: None).put("coattest-buyer", json_canonical(text), {})[0]
        report = self.folder / f"{name}.report.json"
        self.command(
            "verify",
            "report",
            "--key",
            str(releases[0].members.folder / "keys" / name),
            "--member",
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
        client = client_of(self.services, "cloudformation", name)
        found = stacks.Stacks(client, lambda _: None).find("coattest-buyer")
        assert found
        return found.outputs["KeyArn"]

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

    def running(self) -> list[str]:
        """The releases that run now."""
        return sorted(LocalHost(self.folder / "state" / "enclaves").running())


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


planning_options = ("name", "account", "region", "vpc", "subnet", "ami")


def also_of(release: Release) -> Sequence[str]:
    """The options for a second release."""
    return ("--release", release.name)


def json_canonical(text: str) -> str:
    """A template's text without the line's end that a shell prints."""
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


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
        endpoint = Endpoint(self.world.services.endpoint, self.world.services.ca_bundle)
        aws = aws_of(endpoint, access, secret, self.plan.settings.region)
        return rollout.Cloud(aws, host or self.host, lambda _: None, now)

    def apply(self, **options: Any) -> rollout.Applied:
        """Apply the plan."""
        return rollout.apply_stacks(self.plan, self.world.first.image, self.cloud(**options))

    def following(self, **changes: Any) -> planning.StackPlan:
        """The plan of the second release for the same deployment; ``changes`` are the reports'."""
        world, settings = self.world, self.plan.settings
        reports = {
            f"{name}.json": world.second.report(name, role=settings.role_arn, **changes) for name in BUYERS
        }
        return planning.make_stack_plan(world.second.authority, world.second.image, settings, reports)

    def fault(self, stack: str, **what: Any) -> None:
        """Tell the simulator how a stack fails from now on; nothing means not at all."""
        text = json.dumps({stack: what} if what else {})
        (self.world.services.directory / FILE).write_text(text)

    def session(self) -> Any:
        """Credentials of this deployment's parent role."""
        return parent_session(self.world.services, self.plan.settings)

    def instances(self) -> list[str]:
        """The parent instances of this deployment that run."""
        ec2 = client_of(self.world.services, "ec2", "service")
        found = ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
        return [
            str(item["InstanceId"])
            for group in found["Reservations"]
            for item in group["Instances"]
            if {"Key": "Name", "Value": self.plan.settings.main_stack} in item.get("Tags", [])
        ]

    def buckets(self) -> list[str]:
        """The buckets of this deployment."""
        s3 = client_of(self.world.services, "s3", "service")
        start = self.plan.settings.base_stack
        return [str(item["Name"]) for item in s3.list_buckets()["Buckets"] if item["Name"].startswith(start)]

    def stacks(self) -> stacks.Stacks:
        """The service's stacks."""
        return stacks.Stacks(client_of(self.world.services, "cloudformation", "service"), lambda _: None)

    def status(self) -> dict[str, Any]:
        """What status says."""
        return rollout.stacks_status(self.plan, self.cloud())

    def stack(self, name: str) -> stacks.StackState | None:
        """A stack as it is now."""
        return self.stacks().find(name)


def details(status: dict[str, Any]) -> str:
    """What a status found, in one text."""
    return " ".join(finding["detail"] for finding in status["findings"])


def running_world(folder: Path) -> Iterator[World]:
    """Three accounts, two releases; whatever enclave is left ends in the end."""
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
        made = World(running, first, second, settings, folder, forks)
        try:
            yield made
        finally:
            host = LocalHost(folder / "state" / "enclaves")
            for release in host.running():
                host.terminate(release)


def running_bench(world: World, folder: Path, name: str) -> Iterator[Bench]:
    """A plan with both buyers' reports; everything of it ends with the test."""
    settings = dataclasses.replace(world.settings, name=name)
    reports = {f"{name}.json": world.first.report(name, role=settings.role_arn) for name in BUYERS}
    plan = planning.make_stack_plan(world.first.authority, world.first.image, settings, reports)
    made = Bench(world, plan, LocalHost(folder / "enclaves"))
    yield made
    for file in (THROTTLE, FILE):
        (world.services.directory / file).unlink(missing_ok=True)
    try:
        rollout.destroy_stacks(settings, made.cloud(), delete_data=True)
    except EnvironmentFailure as error:
        # A test that made nothing, or has destroyed it, leaves nothing to end.
        if error.code != "no-deployment":
            raise
