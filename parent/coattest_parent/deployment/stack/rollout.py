"""apply, status and destroy for AWS. Every run starts from the decision and from what exists in the cloud.

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

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.files import open_plain
from coattest.findings import Finding
from coattest_parent.deployment.live import Live, check_live
from coattest_parent.deployment.runner import Enclave
from coattest_parent.deployment.stack.hosts import EnclaveHost
from coattest_parent.deployment.stack.planning import StackPlan
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.stacks import Say, Stacks, StackState, next_step
from coattest_parent.deployment.stack.templates import attached, main_parameters
from coattest_parent.link.aws import Aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Applied:
    """What apply did: ``live`` is None after phase 1, ``retired`` are the releases that ended."""

    role_arn: str
    instance_id: str | None
    live: Live | None
    retired: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cloud:
    """The service's account, and where its enclaves run."""

    aws: Aws
    host: EnclaveHost
    say: Say
    clock: Callable[[], datetime]

    def stacks(self, settings: Settings) -> Stacks:
        """The account's stacks in the deployment's region."""
        return Stacks(self.aws.cloudformation(settings.region), self.say)


def apply_stacks(plan: StackPlan, image: Path, cloud: Cloud, programs: Path | None = None) -> Applied:
    """Bring both stacks to the plan, start the decided enclave beside what runs, verify it, end the others.

    ``programs`` is the archive that the plan's settings name, where they name one. When anything fails after
    phase 1, the enclave started here is ended and phase 2 is brought back to what it was. The next call
    finishes one that was killed anywhere: what exists is read from the cloud each time.
    """
    settings = plan.settings
    stacks = cloud.stacks(settings)
    require_place(settings, cloud.aws)
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
            # Registered before the change begins: one that fails halfway is undone too.
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
    """What phase 2 attaches to phase 1's role now: that is no change by hand."""
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
    """Roll back. A roll-back that fails is reported, and the first error stays the one that is raised."""
    say(f"{what}: rolling back")
    try:
        undo()
    except CoattestError as error:
        say(f"{what}: NOT rolled back: {error}")


def require_account(settings: Settings, aws: Aws) -> None:
    """Raise FoundFalse (wrong-account) unless the credentials are of the deployment's account."""
    with aws_errors("who is asking"):
        account = aws.sts(settings.region).get_caller_identity()["Account"]
    if account != settings.account:
        raise FoundFalse(
            f"the credentials are of account {account}, the plan is for {settings.account}",
            code="wrong-account",
        )


def require_place(settings: Settings, aws: Aws) -> None:
    """Raise FoundFalse unless the credentials are of the account (wrong-account), and the subnet is in the
    VPC and the region (wrong-region).
    """
    require_account(settings, aws)
    try:
        with aws_errors(settings.subnet):
            found = aws.ec2(settings.region).describe_subnets(SubnetIds=[settings.subnet])["Subnets"]
    except AwsFailure as error:
        if error.service_code in ("InvalidSubnetID.NotFound", "InvalidSubnetId.NotFound"):
            raise FoundFalse(
                f"no such subnet in {settings.region}", where=settings.subnet, code="wrong-region"
            ) from None
        raise
    if [item.get("VpcId") for item in found] != [settings.vpc]:
        raise FoundFalse(f"the subnet is not in {settings.vpc}", where=settings.subnet, code="wrong-region")


def require_instance(aws: Aws, region: str, instance: str) -> None:
    """Raise FoundFalse (instance) unless EC2 says that the instance runs and does not say that enclaves are
    off.
    """
    with aws_errors(instance):
        answer = aws.ec2(region).describe_instances(InstanceIds=[instance])
    found = next((each for group in answer["Reservations"] for each in group.get("Instances", [])), None)
    if found is None:
        raise FoundFalse("there is no such instance", where=instance, code="instance")
    state = found.get("State", {}).get("Name")
    if state not in ("pending", "running"):
        raise FoundFalse(f"the instance is {state}", where=instance, code="instance")
    if found.get("EnclaveOptions", {}).get("Enabled") is False:
        raise FoundFalse("enclaves are not enabled on the instance", where=instance, code="instance")


def upload(plan: StackPlan, image: Path, cloud: Cloud, bucket: str, programs: Path | None = None) -> None:
    """Upload the image and the programs, each once and with its checksum: S3 refuses other bytes."""
    artifact, settings = plan.artifact, plan.settings
    metadata = artifact.metadata(plan.decision)
    put = _Put(cloud.aws.s3(settings.region), bucket, settings.account, cloud.say)
    put(artifact.key, image, sha256=artifact.sha256, metadata=metadata)
    if settings.programs is not None:
        if programs is None:
            raise UsageError(
                "the plan names programs, and their archive is not here", hint="make the plan again"
            )
        put(settings.programs_key, programs, sha256=settings.programs, metadata={})


@dataclass(frozen=True, slots=True)
class _Put:
    """Objects of a bucket, which must be ``owner``'s: S3 refuses a bucket of the same name elsewhere."""

    client: S3Client
    bucket: str
    owner: str
    say: Say

    def __call__(self, key: str, path: Path, *, sha256: str, metadata: Mapping[str, str]) -> None:
        """Upload a file unless the same bytes are there already; S3 refuses bytes that do not match
        ``sha256``.
        """
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode("ascii")
        with aws_errors(f"s3://{self.bucket}/{key}"):
            if self._checksum(key) == checksum:
                self.say(f"{key} exists already")
                return
            size = path.stat().st_size
            self.say(f"uploading {size} bytes to {key}")
            with open_plain(path) as file:
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
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            head = self.client.head_object(
                Bucket=self.bucket, Key=key, ChecksumMode="ENABLED", ExpectedBucketOwner=self.owner
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey", "NotFound"):
                raise
            return None
        return head.get("ChecksumSHA256")


def stacks_status(plan: StackPlan, cloud: Cloud) -> dict[str, Any]:
    """The state of stacks, drift, releases, the live document and the buyers' keys, with everything that is
    wrong as ``findings`` (``Finding.to_json``).

    It waits for nothing and changes nothing.
    """
    settings, stacks = plan.settings, cloud.stacks(plan.settings)
    require_account(settings, cloud.aws)
    names = (settings.base_stack, settings.main_stack)
    states = {name: stacks.find(name) for name in names}
    unfinished = (_unfinished(stacks, name, state) for name, state in states.items())
    findings = [finding for finding in unfinished if finding is not None]
    drift = {name: stacks.drift(name, _attached(stacks, settings, name)) for name in names}
    findings += [
        Finding("stack-changed", name, f"{', '.join(items)} changed by hand")
        for name, items in drift.items()
        if items
    ]
    running: Mapping[str, Enclave] = {}
    live, main = None, states[settings.main_stack]
    try:
        running = cloud.host.running()
        if main is None or plan.release_id not in running:
            findings.append(Finding("not-running", plan.release_id, "the decided release is not running"))
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
        # A missing right or a failure of AWS is an error; an agent that does not report is a finding.
        if isinstance(error, AwsFailure) and error.service_code != "InvalidInstanceId":
            raise
        findings.append(Finding(error.code, error.where or settings.main_stack, error.what))
        findings += error.findings
    keys = {report.member: _key(cloud.aws, report.kms, report.region) for report in plan.reports}
    findings += [
        Finding("key-state", f"key of {name}", state, expected="Enabled", found=state)
        for name, state in keys.items()
        if state not in _FINE
    ]
    return {
        "decision": plan.decision.digest.hex(),
        "release": plan.release_id,
        "stacks": {name: state.status if state else None for name, state in states.items()},
        "drift": {name: list(items) for name, items in drift.items()},
        "running": sorted(running),
        "keys": keys,
        "live": {"module_id": live.module_id, "time": live.time.isoformat()} if live else None,
        "findings": [finding.to_json() for finding in findings],
    }


def _unfinished(stacks: Stacks, name: str, state: StackState | None) -> Finding | None:
    """A stack that is missing or half-finished, with what to do; None when it is fine."""
    if state is None:
        return Finding("stack-failed", name, "the stack is missing")
    remedy = {
        "wait": "another change is in progress",
        "remove": "incomplete: apply deletes and recreates it, destroy deletes it",
        "continue": "apply continues its roll-back",
        "stop": "destroy it, and apply again",
    }.get(next_step(state.status))
    if remedy is None:
        return None
    why = "" if state.status.endswith("_IN_PROGRESS") else f" ({stacks.reason(name)})"
    detail = f"the stack is in {state.status}{why}: {remedy}"
    return Finding("stack-failed", name, detail, found=state.status)


_UNREADABLE = "not readable from this account"
_FINE = ("Enabled", _UNREADABLE)


def _key(aws: Aws, arn: str, region: str) -> str:
    """The state of a buyer's key. Only its owner can read its policy."""
    try:
        with aws_errors(arn):
            return str(aws.kms(region).describe_key(KeyId=arn)["KeyMetadata"].get("KeyState"))
    except AwsFailure as error:
        if error.service_code in ("AccessDeniedException", "NotFoundException"):
            return _UNREADABLE
        raise


def destroy_stacks(settings: Settings, cloud: Cloud, *, delete_data: bool) -> Mapping[str, list[str]]:
    """End every enclave and delete both stacks, with ``delete_data`` the buckets too; returns what is
    ``gone`` and what ``remains``.

    Raises EnvironmentFailure (no-deployment) when neither stack is there: nothing was looked at then.
    """
    require_account(settings, cloud.aws)
    stacks = cloud.stacks(settings)
    gone = []
    try:
        for name in cloud.host.running():
            cloud.host.terminate(name)
            gone.append(f"enclave {name}")
    except EnvironmentFailure as error:
        # An instance that does not answer, or answers nonsense, must still be deleted.
        if not cloud.host.on_instance:
            raise
        cloud.say(f"the enclaves end with the instance, as they could not be ended one by one: {error}")
    base = stacks.settled(settings.base_stack)
    if base is None and stacks.settled(settings.main_stack) is None and not gone:
        raise EnvironmentFailure(
            f"neither {settings.main_stack} nor {settings.base_stack} is there",
            where=f"{settings.account} {settings.region}",
            hint="check the plan and the credentials; if it was destroyed before, there is nothing to do",
            code="no-deployment",
        )
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
