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

from coattest_parent.aws import Aws, AwsFailure, aws_errors
from coattest_parent.deployment import Live, check_live
from coattest_parent.stack.hosts import EnclaveHost
from coattest_parent.stack.plan import StackPlan, WrongRegion
from coattest_parent.stack.settings import Settings
from coattest_parent.stack.stacks import Say, Stacks
from coattest_parent.stack.templates import main_parameters
from coattest_verify.shell import CoattestError, FoundFalse, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class WrongAccount(FoundFalse):
    """The credentials are of another account than the plan."""

    default_reason = "wrong-account"


class NotReady(FoundFalse):
    """The instance does not run, or does not have enclaves enabled."""

    default_reason = "instance"


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
    When anything fails after phase 1, the enclave started here ends and phase 2 is what it was before.
    """
    settings = plan.settings
    stacks = cloud.stacks(settings)
    preflight(settings, cloud.aws)
    for name in (settings.base_stack, settings.main_stack):
        stacks.require_untouched(name)
    base, _ = stacks.put(settings.base_stack, plan.base_text, {})
    if not plan.reports:
        return Applied(settings.role_arn, None, None)
    upload(plan, image, cloud, base.outputs["ArtifactBucket"], programs)
    before = stacks.settled(settings.main_stack)
    changed = False
    with contextlib.ExitStack() as undo:
        # Set before the change: one that fails halfway is undone too.
        undo.callback(lambda: _undo(stacks, settings.main_stack, before, cloud.say) if changed else None)
        changed = True
        parameters = main_parameters(settings, plan.reports, base.outputs)
        main, changed = stacks.put(settings.main_stack, plan.main_text, parameters)
        instance = main.outputs["InstanceId"]
        require_instance(cloud.aws, settings.region, instance)
        live = _start(plan, image, cloud, instance, undo)
        cloud.host.attend(plan.release_id)
        undo.pop_all()
    retired = tuple(name for name in cloud.host.running() if name != plan.release_id)
    for name in retired:
        cloud.say(f"release {name} ends")
        cloud.host.terminate(name)
    return Applied(settings.role_arn, instance, live, retired)


def _start(plan: StackPlan, image: Path, cloud: Cloud, instance: str, undo: contextlib.ExitStack) -> Live:
    role, release = plan.settings.role_arn, plan.release_id
    enclave = cloud.host.running().get(release)
    if enclave is None:
        cloud.say(f"starting release {release}")
        undo.callback(cloud.host.terminate, release)
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


def _undo(stacks: Stacks, name: str, before: Any, say: Say) -> None:
    """Roll back; what cannot be rolled back is said, and does not hide why."""
    say(f"{name}: rolling back")
    try:
        stacks.undo(name, before)
    except CoattestError as error:
        say(f"{name}: not rolled back: {error}")


def preflight(settings: Settings, aws: Aws) -> None:
    """Raise unless the credentials are the account's, and VPC and subnet are in the region."""
    with aws_errors("who is asking"):
        account = aws.sts(settings.region).get_caller_identity()["Account"]
    if account != settings.account:
        raise WrongAccount(f"the credentials are of account {account}, the plan is for {settings.account}")
    try:
        with aws_errors(settings.subnet):
            found = aws.ec2(settings.region).describe_subnets(SubnetIds=[settings.subnet])["Subnets"]
    except AwsFailure as error:
        if error.reason in ("InvalidSubnetID.NotFound", "InvalidSubnetId.NotFound"):
            raise WrongRegion(f"no such subnet in {settings.region}", where=settings.subnet) from None
        raise
    if [item.get("VpcId") for item in found] != [settings.vpc]:
        raise WrongRegion(f"the subnet is not in {settings.vpc}", where=settings.subnet)


def require_instance(aws: Aws, region: str, instance: str) -> None:
    """Raise NotReady unless the instance runs, with enclaves enabled as far as EC2 says."""
    with aws_errors(instance):
        answer = aws.ec2(region).describe_instances(InstanceIds=[instance])
        found = next(iter(answer["Reservations"][0].get("Instances", [])))
    state = found.get("State", {}).get("Name")
    if state not in ("pending", "running"):
        raise NotReady(f"the instance is {state}", where=instance)
    if found.get("EnclaveOptions", {}).get("Enabled") is False:
        raise NotReady("the instance has no enclaves enabled", where=instance)


def upload(plan: StackPlan, image: Path, cloud: Cloud, bucket: str, programs: Path | None = None) -> None:
    """Put the image and the instance's programs, each once and with its checksum: S3 refuses other bytes."""
    artifact, settings = plan.artifact, plan.settings
    client = cloud.aws.s3(settings.region)
    metadata = artifact.metadata(plan.decision)
    _put(client, (bucket, artifact.key), image, sha256=artifact.sha256, metadata=metadata, say=cloud.say)
    if settings.programs is not None:
        if programs is None:
            raise UsageError("the plan has programs, and they are not here", hint="make the plan again")
        there = (bucket, settings.programs_key)
        _put(client, there, programs, sha256=settings.programs, metadata={}, say=cloud.say)


def _put(
    client: S3Client,
    at: tuple[str, str],
    path: Path,
    *,
    sha256: str,
    metadata: Mapping[str, str],
    say: Say,
) -> None:
    """Put a file at (bucket, key) unless the same bytes are there."""
    bucket, key = at
    checksum = base64.b64encode(bytes.fromhex(sha256)).decode("ascii")
    with aws_errors(f"s3://{bucket}/{key}"):
        try:
            head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey", "NotFound"):
                raise
            head = None
        if head and head.get("ChecksumSHA256") == checksum:
            say(f"{key} is there")
            return
        size = path.stat().st_size
        say(f"uploading {size} bytes to {key}")
        with path.open("rb") as file:
            client.put_object(
                Bucket=bucket,
                Key=key,
                Body=file,
                ContentLength=size,
                ChecksumSHA256=checksum,
                Metadata=dict(metadata),
            )


def status(plan: StackPlan, cloud: Cloud) -> dict[str, Any]:
    """How it is: stacks, drift, releases, the live document, the buyers' keys as far as readable."""
    settings, stacks = plan.settings, cloud.stacks(plan.settings)
    names = (settings.base_stack, settings.main_stack)
    states = {name: stacks.find(name) for name in names}
    found: dict[str, Any] = {
        "decision": plan.decision.digest.hex(),
        "release": plan.release_id,
        "stacks": {name: state.status if state else None for name, state in states.items()},
        "drift": {name: list(stacks.drift(name)) for name in names},
        "running": sorted(cloud.host.running()),
        "keys": {report.operator: _key(cloud.aws, report.kms, report.region) for report in plan.reports},
        "live": None,
        "problems": [],
    }
    problems = [f"{name} is missing" for name, state in states.items() if state is None]
    problems += [
        f"{name}: {', '.join(items)} changed by hand" for name, items in found["drift"].items() if items
    ]
    main, enclave = states[settings.main_stack], cloud.host.running().get(plan.release_id)
    if enclave is None or main is None:
        problems.append("the decided release does not run")
    else:
        try:
            live = check_live(
                plan.decision,
                enclave,
                role_arn=settings.role_arn,
                instance_id=main.outputs.get("InstanceId", ""),
                now=cloud.clock,
                get=cloud.host.document,
            )
            found["live"] = {"module_id": live.module_id, "time": live.time.isoformat()}
        except CoattestError as error:
            problems.append(str(error))
    problems += [f"key of {name}: {state}" for name, state in found["keys"].items() if state not in _FINE]
    found["problems"] = problems
    return found


_UNREADABLE = "not readable from this account"
_FINE = ("Enabled", _UNREADABLE)


def _key(aws: Aws, arn: str, region: str) -> str:
    """The state of a buyer's key. Its policy is its owner's to read: the report and the audit speak of it."""
    try:
        with aws_errors(arn):
            return str(aws.kms(region).describe_key(KeyId=arn)["KeyMetadata"].get("KeyState"))
    except AwsFailure as error:
        if error.reason in ("AccessDeniedException", "NotFoundException"):
            return _UNREADABLE
        raise


def destroy(settings: Settings, cloud: Cloud, *, delete_data: bool) -> Mapping[str, list[str]]:
    """End every enclave, delete both stacks; buckets only with ``delete_data``. What went, what stays."""
    stacks = cloud.stacks(settings)
    gone = []
    try:
        for name in cloud.host.running():
            cloud.host.terminate(name)
            gone.append(f"enclave {name}")
    except AwsFailure as error:
        # An instance whose agent is not there must not keep its stack for ever.
        if error.reason != "InvalidInstanceId":
            raise
        cloud.say(f"enclaves were not ended one by one, and end with the instance: {error}")
    base = stacks.settled(settings.base_stack)
    for name in (settings.main_stack, settings.base_stack):
        if stacks.settled(name) is not None:
            stacks.delete(name)
            gone.append(f"stack {name}")
    outputs = base.outputs if base else {}
    buckets = [outputs[name] for name in ("ArtifactBucket", "ResultBucket") if name in outputs]
    if delete_data:
        for bucket in buckets:
            _empty(cloud.aws, settings.region, bucket)
            gone.append(f"bucket {bucket}")
        buckets = []
    return {"gone": gone, "remains": [f"bucket {bucket}" for bucket in buckets]}


def _empty(aws: Aws, region: str, bucket: str) -> None:
    """Delete every version of every object, and the bucket."""
    client = aws.s3(region)
    with aws_errors(bucket):
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for item in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
                client.delete_object(
                    Bucket=bucket, Key=item.get("Key", ""), VersionId=item.get("VersionId", "")
                )
        client.delete_bucket(Bucket=bucket)
