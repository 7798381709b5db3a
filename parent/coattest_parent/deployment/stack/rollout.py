"""apply, status and destroy for AWS. Every run starts from the decision and from what exists in the cloud.

The order of an upgrade: the buyers' policies admit the next release (their reports say so), its parents are
made beside the ones that serve and each is verified, and only then the old ones may go. So there is no moment
in which neither can decrypt, and nothing that serves is touched by what fails. A rollback is the same with
the earlier decision.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.files import open_plain
from coattest.findings import Finding
from coattest_parent.deployment.live import require_in_force
from coattest_parent.deployment.stack.configuration import configuration_key
from coattest_parent.deployment.stack.parents import Parent, Parents
from coattest_parent.deployment.stack.planning import StackPlan
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.stacks import Say, Stacks, StackState, next_step
from coattest_parent.deployment.stack.templates import CAPACITY, FROM_BASE, JOBS
from coattest_parent.link.aws import Aws
from coattest_parent.link.job_listing import list_spools, open_jobs
from coattest_verify.fleet.live import IN_SERVICE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKETS = ("ArtifactBucket", "ResultBucket")


@dataclass(frozen=True, slots=True)
class Applied:
    """What apply did: ``parents`` are verified, none after phase 1; ``beside`` are stacks of other releases
    or settings that still serve, ``retired`` those that were deleted.
    """

    role: str
    stack: str | None = None
    parents: tuple[Parent, ...] = ()
    beside: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every field, and whether an enclave was verified."""
        parents = [parent.to_json() for parent in self.parents]
        return {**asdict(self), "verified": bool(parents), "parents": parents}


@dataclass(frozen=True, slots=True)
class Cloud:
    """The service's account, and what time it is."""

    aws: Aws
    say: Say
    clock: Callable[[], datetime]

    def stacks(self, settings: Settings) -> Stacks:
        """The account's stacks in the deployment's region."""
        return Stacks(self.aws.cloudformation(settings.region), self.say)

    def parents(self, plan: StackPlan, base: StackState) -> Parents:
        """The parents of a plan."""
        settings, stacks = plan.settings, self.stacks(plan.settings)
        bucket = base.output("ResultBucket")
        return Parents(self.aws, settings, plan.decision, plan.parents_stack, bucket, stacks, self.clock)


def apply_stacks(
    plan: StackPlan, image: Path, cloud: Cloud, programs: Path | None = None, *, retire: bool = False
) -> Applied:
    """Bring the base to the plan, make its parents beside what serves, and verify each of them.

    ``programs`` is the archive that the plan's settings name, where they name one; ``retire`` deletes the
    stacks of other releases and settings in the end, once no job of theirs is open (FoundFalse, open-jobs).
    Nothing of theirs is touched before. The next call finishes one that was killed anywhere: what exists is
    read from the cloud each time.
    """
    settings, since = plan.settings, cloud.clock()
    require_in_force(plan.decision, since)
    stacks = cloud.stacks(settings)
    require_account(settings, cloud.aws)
    stacks.require_untouched(settings.base_stack)
    base = stacks.put(settings.base_stack, plan.base_text, {})
    if not plan.reports:
        return Applied(settings.role_arn)
    upload(plan, image, cloud, base.output("ArtifactBucket"), programs)
    parents = cloud.parents(plan, base)
    given = {**{name: base.output(name) for name in FROM_BASE}, CAPACITY: str(settings.capacity)}
    verified = parents.bring_to(plan.parents_text, given, since=since)
    others = tuple(name for name in stacks.named(settings.parents_stacks) if name != parents.name)
    if not retire:
        return Applied(settings.role_arn, parents.name, verified, beside=others)
    _require_no_jobs(plan, cloud, others, base.output("ResultBucket"))
    for name in others:
        cloud.say(f"{name}: retired")
        stacks.delete(name)
    return Applied(settings.role_arn, parents.name, verified, retired=others)


def _require_no_jobs(plan: StackPlan, cloud: Cloud, stacks: Sequence[str], bucket: str) -> None:
    """Raise FoundFalse (open-jobs) with every job that nobody would take without these stacks."""
    # One that was never made has no outputs, and takes no jobs.
    found = map(cloud.stacks(plan.settings).find, stacks)
    made = [state for state in found if state and (state.outputs or next_step(state.status) != "remove")]
    findings = []
    for release in sorted({state.output("Release") for state in made} - {plan.decision.release}):
        jobs = open_jobs(cloud.aws.s3(plan.settings.region), f"s3://{bucket}/{JOBS}/{release}")
        findings += [Finding("open-jobs", job, "not finished") for job in jobs]
    if findings:
        raise FoundFalse(
            f"{len(findings)} of its jobs are not finished, nothing was retired: {findings[0].where}",
            hint="the old parents go on with them; retire when they are done (docs/deployment.md)",
            code="open-jobs",
            findings=findings,
        )


def require_account(settings: Settings, aws: Aws) -> None:
    """Raise FoundFalse (wrong-account) unless the credentials are of the deployment's account."""
    with aws_errors("who is asking"):
        account = aws.sts(settings.region).get_caller_identity()["Account"]
    if account != settings.account:
        what = f"the credentials are of account {account}, the plan is for {settings.account}"
        raise FoundFalse(what, code="wrong-account")


def upload(plan: StackPlan, image: Path, cloud: Cloud, bucket: str, programs: Path | None = None) -> None:
    """Upload image, programs and configuration, each once, under its digest and with its checksum: S3 refuses
    other bytes.
    """
    artifact, settings = plan.artifact, plan.settings
    put = functools.partial(_put, cloud.aws.s3(settings.region), cloud.say, _owned(settings, bucket))
    with open_plain(image) as file:
        put(artifact.key, file, sha256=artifact.sha256, Metadata=artifact.metadata(plan.decision))
    if settings.programs is not None:
        if programs is None or not programs.exists():
            what = "the plan names programs, and their archive is not here"
            raise UsageError(what, hint="make the plan again")
        with open_plain(programs) as file:
            put(settings.programs_key, file, sha256=settings.programs)
    put(configuration_key(plan.digest), io.BytesIO(plan.configuration), sha256=plan.digest)


def _put(
    client: S3Client, say: Say, bucket: Any, key: str, file: IO[bytes], *, sha256: str, **more: Any
) -> None:
    """Upload a file unless these bytes are there already; S3 refuses others than those of ``sha256``."""
    where, head = f"s3://{bucket['Bucket']}/{key}", None
    checksum = base64.b64encode(bytes.fromhex(sha256)).decode("ascii")
    with aws_errors(where, "404", "NoSuchKey", "NotFound"):
        head = client.head_object(**bucket, Key=key, ChecksumMode="ENABLED")
    if head and head.get("ChecksumSHA256") == checksum:
        say(f"{key} exists already")
        return
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    say(f"uploading {size} bytes to {key}")
    with aws_errors(where):
        client.put_object(**bucket, Key=key, Body=file, ContentLength=size, ChecksumSHA256=checksum, **more)


def _owned(settings: Settings, bucket: str) -> Any:
    """A bucket as S3 is asked for it: it refuses one of that name that is another account's."""
    return {"Bucket": bucket, "ExpectedBucketOwner": settings.account}


def stacks_status(plan: StackPlan, cloud: Cloud) -> dict[str, Any]:
    """The state of stacks, drift, every instance with its document, and the buyers' keys, with everything
    that is wrong as ``findings`` (``Finding.to_json``). It waits for nothing and changes nothing.
    """
    settings, stacks = plan.settings, cloud.stacks(plan.settings)
    require_account(settings, cloud.aws)
    named = stacks.named(settings.parents_stacks)
    states = {name: stacks.find(name) for name in dict.fromkeys((*plan.stacks, *named))}
    drift = {name: stacks.drift(name) for name in plan.stacks}
    findings = [each for name in plan.stacks for each in _of_stack(stacks, name, states[name], drift[name])]
    parents: list[Parent] = []
    base = states[settings.base_stack]
    if not plan.reports or base is None or states[plan.parents_stack] is None:
        nobody = "no parents of this release and settings"
        findings.append(Finding("not-running", plan.decision.release, nobody))
    else:
        parents, silent = _looked_at(plan, cloud.parents(plan, base))
        findings += silent
    if base is not None and "ResultBucket" in base.outputs:
        findings += _untaken(plan, cloud, base.output("ResultBucket"), filter(None, states.values()))
    keys = {report.member: _key(cloud.aws, report.kms, report.region) for report in plan.reports}
    bad = {name: state for name, state in keys.items() if state not in ("Enabled", _UNREADABLE)}
    findings += [Finding("key-state", f"key of {name}", bad[name], "Enabled", bad[name]) for name in bad]
    return {
        "decision": plan.decision.digest.hex(),
        "release": plan.decision.release,
        "stacks": {name: state.status if (state := states[name]) else None for name in plan.stacks},
        "beside": [name for name in named if name not in plan.stacks],
        "drift": {name: list(items) for name, items in drift.items()},
        "parents": [parent.to_json() for parent in parents],
        "keys": keys,
        "findings": [finding.to_json() for finding in findings],
    }


def _looked_at(plan: StackPlan, parents: Parents) -> tuple[list[Parent], list[Finding]]:
    """Every instance of the group, verified or not, and what is wrong."""
    shown: list[Parent] = []
    findings: list[Finding] = []
    for parent in parents.listed():
        found = None
        try:
            found = parents.look(parent)
            if found is None:
                findings.append(Finding("not-running", parent.instance, "no document of the last minutes"))
        except AwsFailure:
            raise
        except CoattestError as error:
            findings += error.findings or [Finding(error.code, parent.instance, error.what)]
        shown.append(found or parent)
    serving, wanted = str(sum(each.lifecycle == IN_SERVICE for each in shown)), str(plan.settings.capacity)
    if serving != wanted:
        findings.append(Finding("not-running", parents.name, "instances in service", wanted, serving))
    return shown, findings


def _untaken(plan: StackPlan, cloud: Cloud, bucket: str, states: Iterable[StackState]) -> list[Finding]:
    """Open jobs of releases that have no parents, whose couriers would tell of them; and unlisted spools."""
    client = cloud.aws.s3(plan.settings.region)
    served = {_served(state, plan) for state in states}
    findings: list[Finding] = []

    def listed(listing: Callable[[S3Client, str], list[str]], uri: str) -> list[str]:
        try:
            return listing(client, uri)
        except AwsFailure as error:
            findings.append(Finding(error.code, uri, error.what))
            return []

    for release in listed(list_spools, place := f"s3://{bucket}/{JOBS}"):
        if release not in served:
            why = f"release {release} has no parents to take it: apply that release, or move the job"
            findings += [Finding("open-jobs", job, why) for job in listed(open_jobs, f"{place}/{release}")]
    return findings


def _served(state: StackState, plan: StackPlan) -> str | None:
    """The release whose jobs a stack's parents take or, being made for the plan, will take; None without."""
    if (state.name, state.status) == (plan.parents_stack, "CREATE_IN_PROGRESS"):
        return plan.decision.release
    step = next_step(state.status)
    usable = step in ("update", "continue") or (step == "wait" and state.status.startswith("UPDATE_"))
    return state.outputs.get("Release") if usable else None


def _of_stack(stacks: Stacks, name: str, state: StackState | None, drift: Sequence[str]) -> Iterator[Finding]:
    """A stack that is missing, half-finished or changed by hand, with what to do."""
    remedies = {
        "wait": "another change is in progress",
        "remove": "incomplete: apply deletes and recreates it, destroy deletes it",
        "continue": "apply continues its roll-back",
        "stop": "destroy it, and apply again",
    }
    if state is None:
        yield Finding("stack-failed", name, "the stack is missing")
    elif remedy := remedies.get(next_step(state.status)):
        why = "" if state.status.endswith("_IN_PROGRESS") else f" ({stacks.reason(state)})"
        detail = f"the stack is in {state.status}{why}: {remedy}"
        yield Finding("stack-failed", name, detail, found=state.status)
    if drift:
        yield Finding("stack-changed", name, f"{', '.join(drift)} changed by hand")


_UNREADABLE = "not readable from this account"


def _key(aws: Aws, arn: str, region: str) -> str:
    """The state of a buyer's key. Only its owner can read its policy."""
    key: Mapping[str, Any] = {"KeyState": _UNREADABLE}
    with aws_errors(arn, "AccessDeniedException", "NotFoundException"):
        key = aws.kms(region).describe_key(KeyId=arn)["KeyMetadata"]
    return str(key.get("KeyState"))


def destroy_stacks(settings: Settings, cloud: Cloud, *, delete_data: bool) -> Mapping[str, list[str]]:
    """Delete the stacks of every release and then the base, with ``delete_data`` the buckets too; returns
    what is ``gone`` and what ``remains``. The base comes last: only there it says which buckets are its own,
    to the next call too.

    Raises EnvironmentFailure (no-deployment) when none is there: nothing was looked at then.
    """
    require_account(settings, cloud.aws)
    stacks = cloud.stacks(settings)
    base = stacks.settled(settings.base_stack)
    names = [*stacks.named(settings.parents_stacks), *([settings.base_stack] if base else [])]
    buckets = [base.output(name) for name in BUCKETS if name in base.outputs] if base else []
    if not names:
        raise EnvironmentFailure(
            f"no stack of {settings.name} is there",
            where=f"{settings.account} {settings.region}",
            hint="check the plan and the credentials; if it was destroyed before, there is nothing to do",
            code="no-deployment",
        )
    for name in names:
        if name == settings.base_stack and delete_data:
            for bucket in buckets:
                _empty(cloud.aws.s3(settings.region), _owned(settings, bucket))
        # One that is being made is not waited for: nobody signals for it.
        stacks.delete(name)
    gone = [f"stack {name}" for name in names]
    remains = [f"bucket {bucket}" for bucket in buckets]
    return {"gone": gone + remains, "remains": []} if delete_data else {"gone": gone, "remains": remains}


def _empty(client: S3Client, bucket: Any) -> None:
    """Delete every version of every object, and the bucket, if it is there."""
    with aws_errors(bucket["Bucket"], "NoSuchBucket"):
        for page in client.get_paginator("list_object_versions").paginate(**bucket):
            for item in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
                client.delete_object(**bucket, Key=item.get("Key", ""), VersionId=item.get("VersionId", ""))
        client.delete_bucket(**bucket)
