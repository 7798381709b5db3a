"""apply, status and destroy for AWS. Every run starts from the decision and from what the cloud says.

The order of an upgrade: the buyers' policies admit the next release (their reports say so), the next release
starts beside the running one and is verified, and only then the old one ends. So there is no moment in which
neither can decrypt. A rollback is the same with the earlier decision.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest_parent.deployment.live import Live, check_live
from coattest_parent.deployment.runner import Enclave
from coattest_parent.deployment.stack.hosts import EnclaveHost
from coattest_parent.deployment.stack.plan import StackPlan, WrongRegion
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.stacks import Say, Stacks, StackState, next_step
from coattest_parent.deployment.stack.templates import attached, main_parameters
from coattest_parent.link.aws import Aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class WrongAccount(FoundFalse):
    """The credentials are of another account than the plan."""

    default_code = "wrong-account"


class NotReady(FoundFalse):
    """The instance does not run, or does not have enclaves enabled."""

    default_code = "instance"


@dataclass(frozen=True, slots=True)
class Applied:
    """What apply reached; ``live`` is None after phase 1. ``retired`` are the releases that ended."""

    role_arn: str
    instance_id: str | None
    live: Live | None
    retired: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cloud:
    """The service's account, and where enclaves are started."""

    aws: Aws
    host: EnclaveHost
    say: Say
    clock: Callable[[], datetime]

    def stacks(self, settings: Settings) -> Stacks:
        """The account's stacks in the deployment's region."""
        return Stacks(self.aws.cloudformation(settings.region), self.say)


def apply(plan: StackPlan, image: Path, cloud: Cloud, programs: Path | None = None) -> Applied:
    """Bring both stacks to the plan, start the decided enclave beside what runs, verify it, end the others.

    ``programs`` is the archive that the plan's settings name, where they name one.
    When anything fails after phase 1, the enclave started here ends and phase 2 is what it was before. A call
    that was killed anywhere is finished by the next one: what exists is read from the cloud each time.
    """
    settings = plan.settings
    stacks = cloud.stacks(settings)
    preflight(settings, cloud.aws)
    for name in (settings.base_stack, settings.main_stack):
        stacks.require_untouched(name, _attached(stacks, settings, name))
    base, _ = stacks.put(settings.base_stack, plan.base_text, {})
    if not plan.reports:
        return Applied(settings.role_arn, None, None)
    upload(plan, image, cloud, base.output("ArtifactBucket"), programs)
    before = stacks.settled(settings.main_stack)
    with contextlib.ExitStack() as undo:
        buckets = {name: base.output(name) for name in ("ArtifactBucket", "ResultBucket")}
        parameters = main_parameters(settings, plan.reports, buckets)
        main, _ = stacks.put(
            settings.main_stack,
            plan.main_text,
            parameters,
            # Said before the change begins: one that fails halfway is undone too.
            lambda: undo.callback(
                _undo, settings.main_stack, lambda: stacks.undo(settings.main_stack, before), cloud.say
            ),
        )
        instance = main.output("InstanceId")
        require_instance(cloud.aws, settings.region, instance)
        live = _start(plan, image, cloud, instance, undo)
        cloud.host.attend(plan.release_id)
        undo.pop_all()
    retired = tuple(name for name in cloud.host.running() if name != plan.release_id)
    for name in retired:
        cloud.say(f"release {name} ends")
        cloud.host.terminate(name)
    return Applied(settings.role_arn, instance, live, retired)


def _attached(stacks: Stacks, settings: Settings, name: str) -> list[dict[str, Any]]:
    """What phase 2 as it is now attaches to phase 1's role: no change by hand."""
    main = stacks.find(settings.main_stack) if name == settings.base_stack else None
    return attached(main.parameters) if main else []


def _start(plan: StackPlan, image: Path, cloud: Cloud, instance: str, undo: contextlib.ExitStack) -> Live:
    role, release = plan.settings.role_arn, plan.release_id
    enclave = cloud.host.running().get(release)
    if enclave is None:
        cloud.say(f"starting release {release}")
        undo.callback(_undo, f"release {release}", lambda: cloud.host.terminate(release), cloud.say)
        enclave = cloud.host.run(release, image, role_arn=role, instance_id=instance)
    live = check_live(
        plan.decision,
        enclave,
        role_arn=role,
        instance_id=instance,
        now=cloud.clock,
        get=cloud.host.document,
    )
    cloud.say(f"{live.module_id}: the live document matches the decision")
    return live


def _undo(what: str, undo: Callable[[], object], say: Say) -> None:
    """Roll back; what cannot be rolled back is said, and does not hide why."""
    say(f"{what}: rolling back")
    try:
        undo()
    except CoattestError as error:
        say(f"{what}: NOT rolled back: {error}")


def require_account(settings: Settings, aws: Aws) -> None:
    """Raise WrongAccount unless the credentials are the deployment's account's."""
    with aws_errors("who is asking"):
        account = aws.sts(settings.region).get_caller_identity()["Account"]
    if account != settings.account:
        raise WrongAccount(f"the credentials are of account {account}, the plan is for {settings.account}")


def preflight(settings: Settings, aws: Aws) -> None:
    """Raise unless the credentials are the account's, and VPC and subnet are in the region."""
    require_account(settings, aws)
    try:
        with aws_errors(settings.subnet):
            found = aws.ec2(settings.region).describe_subnets(SubnetIds=[settings.subnet])["Subnets"]
    except AwsFailure as error:
        if error.service_code in ("InvalidSubnetID.NotFound", "InvalidSubnetId.NotFound"):
            raise WrongRegion(f"no such subnet in {settings.region}", where=settings.subnet) from None
        raise
    if [item.get("VpcId") for item in found] != [settings.vpc]:
        raise WrongRegion(f"the subnet is not in {settings.vpc}", where=settings.subnet)


def require_instance(aws: Aws, region: str, instance: str) -> None:
    """Raise NotReady unless the instance runs, with enclaves enabled as far as EC2 says."""
    with aws_errors(instance):
        answer = aws.ec2(region).describe_instances(InstanceIds=[instance])
    found = next((each for group in answer["Reservations"] for each in group.get("Instances", [])), None)
    if found is None:
        raise NotReady("there is no such instance", where=instance)
    state = found.get("State", {}).get("Name")
    if state not in ("pending", "running"):
        raise NotReady(f"the instance is {state}", where=instance)
    if found.get("EnclaveOptions", {}).get("Enabled") is False:
        raise NotReady("the instance has no enclaves enabled", where=instance)


def upload(plan: StackPlan, image: Path, cloud: Cloud, bucket: str, programs: Path | None = None) -> None:
    """Put the image and the instance's programs, each once and with its checksum: S3 refuses other bytes."""
    artifact, settings = plan.artifact, plan.settings
    metadata = artifact.metadata(plan.decision)
    put = _Put(cloud.aws.s3(settings.region), bucket, settings.account, cloud.say)
    put(artifact.key, image, sha256=artifact.sha256, metadata=metadata)
    if settings.programs is not None:
        if programs is None:
            raise UsageError("the plan has programs, and they are not here", hint="make the plan again")
        put(settings.programs_key, programs, sha256=settings.programs, metadata={})


@dataclass(frozen=True, slots=True)
class _Put:
    """Objects of a bucket, which must be ``owner``'s: S3 refuses a bucket of the same name elsewhere."""

    client: S3Client
    bucket: str
    owner: str
    say: Say

    def __call__(self, key: str, path: Path, *, sha256: str, metadata: Mapping[str, str]) -> None:
        """Put a file unless the same bytes are there; S3 refuses other bytes than those of ``sha256``."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode("ascii")
        with aws_errors(f"s3://{self.bucket}/{key}"):
            if self._checksum(key) == checksum:
                self.say(f"{key} is there")
                return
            size = path.stat().st_size
            self.say(f"uploading {size} bytes to {key}")
            with path.open("rb") as file:
                self.client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=file,
                    ContentLength=size,
                    ChecksumSHA256=checksum,
                    ExpectedBucketOwner=self.owner,
                    Metadata=dict(metadata),
                )

    def _checksum(self, key: str) -> str | None:
        try:
            head = self.client.head_object(
                Bucket=self.bucket, Key=key, ChecksumMode="ENABLED", ExpectedBucketOwner=self.owner
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey", "NotFound"):
                raise
            return None
        return head.get("ChecksumSHA256")


def status(plan: StackPlan, cloud: Cloud) -> dict[str, Any]:
    """How it is: stacks, drift, releases, the live document, the buyers' keys as far as readable.

    It waits for nothing and changes nothing; what cannot be read is a problem among the others.
    """
    settings, stacks = plan.settings, cloud.stacks(plan.settings)
    require_account(settings, cloud.aws)
    names = (settings.base_stack, settings.main_stack)
    states = {name: stacks.find(name) for name in names}
    problems = [_unfinished(stacks, name, state) for name, state in states.items()]
    drift = {name: stacks.drift(name, _attached(stacks, settings, name)) for name in names}
    problems += [f"{name}: {', '.join(items)} changed by hand" for name, items in drift.items() if items]
    running: Mapping[str, Enclave] = {}
    live, main = None, states[settings.main_stack]
    try:
        running = cloud.host.running()
        if main is None or plan.release_id not in running:
            problems.append("the decided release does not run")
        else:
            live = check_live(
                plan.decision,
                running[plan.release_id],
                role_arn=settings.role_arn,
                instance_id=main.output("InstanceId"),
                now=cloud.clock,
                get=cloud.host.document,
            )
    except CoattestError as error:
        # What these credentials cannot do, or AWS not now, is no finding; an agent that is not there is.
        if isinstance(error, AwsFailure) and error.code != "InvalidInstanceId":
            raise
        problems.append(str(error))
    keys = {report.member: _key(cloud.aws, report.kms, report.region) for report in plan.reports}
    problems += [f"key of {name}: {state}" for name, state in keys.items() if state not in _FINE]
    return {
        "decision": plan.decision.digest.hex(),
        "release": plan.release_id,
        "stacks": {name: state.status if state else None for name, state in states.items()},
        "drift": {name: list(items) for name, items in drift.items()},
        "running": sorted(running),
        "keys": keys,
        "live": {"module_id": live.module_id, "time": live.time.isoformat()} if live else None,
        "problems": [problem for problem in problems if problem],
    }


def _unfinished(stacks: Stacks, name: str, state: StackState | None) -> str | None:
    """What is wrong with a stack that is missing or not finished, and what to do; None when it is fine."""
    if state is None:
        return f"{name} is missing"
    remedy = {
        "wait": "somebody's change is in progress",
        "remove": "half-finished: apply removes it and makes it again, destroy removes it",
        "continue": "apply takes its roll-back up again",
        "stop": "destroy it, and apply again",
    }.get(next_step(state.status))
    if remedy is None:
        return None
    why = "" if state.status.endswith("_IN_PROGRESS") else f" ({stacks.reason(name)})"
    return f"{name} is in {state.status}{why}: {remedy}"


_UNREADABLE = "not readable from this account"
_FINE = ("Enabled", _UNREADABLE)


def _key(aws: Aws, arn: str, region: str) -> str:
    """The state of a buyer's key. Its policy is its owner's to read: the report and the audit speak of it."""
    try:
        with aws_errors(arn):
            return str(aws.kms(region).describe_key(KeyId=arn)["KeyMetadata"].get("KeyState"))
    except AwsFailure as error:
        if error.service_code in ("AccessDeniedException", "NotFoundException"):
            return _UNREADABLE
        raise


def destroy(settings: Settings, cloud: Cloud, *, delete_data: bool) -> Mapping[str, list[str]]:
    """End every enclave, delete both stacks; buckets only with ``delete_data``. What went, what stays."""
    require_account(settings, cloud.aws)
    stacks = cloud.stacks(settings)
    gone = []
    try:
        for name in cloud.host.running():
            cloud.host.terminate(name)
            gone.append(f"enclave {name}")
    except EnvironmentFailure as error:
        # An instance that does not answer, or answers nonsense, must not keep itself for ever.
        if not cloud.host.on_instance:
            raise
        cloud.say(f"enclaves were not ended one by one, and end with the instance: {error}")
    base = stacks.settled(settings.base_stack)
    for name in (settings.main_stack, settings.base_stack):
        if stacks.settled(name) is not None:
            stacks.delete(name)
            gone.append(f"stack {name}")
    names = ("ArtifactBucket", "ResultBucket")
    buckets = [base.output(name) for name in names if name in base.outputs] if base else []
    if delete_data:
        for bucket in buckets:
            _empty(cloud.aws, settings, bucket)
            gone.append(f"bucket {bucket}")
        buckets = []
    return {"gone": gone, "remains": [f"bucket {bucket}" for bucket in buckets]}


def _empty(aws: Aws, settings: Settings, bucket: str) -> None:
    """Delete every version of every object, and the bucket, if it is the account's."""
    client, owner = aws.s3(settings.region), settings.account
    with aws_errors(bucket):
        pages = client.get_paginator("list_object_versions").paginate(
            Bucket=bucket, ExpectedBucketOwner=owner
        )
        for page in pages:
            for item in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
                client.delete_object(
                    Bucket=bucket,
                    Key=item.get("Key", ""),
                    VersionId=item.get("VersionId", ""),
                    ExpectedBucketOwner=owner,
                )
        client.delete_bucket(Bucket=bucket, ExpectedBucketOwner=owner)
