"""Both kinds of spool under one name: a folder, and a prefix of the local services' S3."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import boto3

from coattest_local.aws.services import Services
from coattest_parent.auction.bucket_spool import LEASE_SECONDS, RENEW, BucketSpool
from coattest_parent.auction.folder_spool import FolderSpool
from coattest_parent.auction.jobs import JobSpool, JobsSeen
from coattest_parent.auction.steps import Sessions
from coattest_parent.deployment.stack import templates
from coattest_parent.link.aws import Aws, Endpoint
from coattest_parent.link.telemetry import Telemetry
from support.enclave.running_enclave import Auction
from support.parent.deployments import SERVICE, SETTINGS

BUCKET = "spools"
ROLE = "spool-parent"


class Place(Protocol):
    """Where jobs are put and looked at, as the service does."""

    def spool(self) -> JobSpool:
        """The spool, for one courier."""
        ...

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """Add files to a job."""
        ...

    def files(self, name: str) -> dict[str, bytes]:
        """What is in a job, leases aside."""
        ...

    def remove(self, name: str, *files: str) -> None:
        """Take files out of a job, or all of it."""
        ...


class InFolder:
    """A spool that is a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def spool(self) -> FolderSpool:
        return FolderSpool(self.folder)

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        for file, content in files.items():
            (self.folder / name / file).write_bytes(content)

    def files(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}

    def remove(self, name: str, *files: str) -> None:
        for file in files:
            (self.folder / name / file).unlink()
        if not files:
            shutil.rmtree(self.folder / name)


class Untimed(BucketSpool):
    """One whose S3 does not say what time it is: couriers go by the test's clock alone."""

    def look(self) -> JobsSeen:
        """Without S3's time; ages are still by it."""
        return dataclasses.replace(super().look(), time=None)


class InBucket:
    """A spool in S3; couriers have the rights of a parent's role and no others."""

    def __init__(self, services: Services, prefix: str) -> None:
        self.services, self.prefix = services, f"jobs/{prefix}"
        self.client = services.client("s3", "service")
        admin = services.accounts["service"]
        session = boto3.Session(admin.access_key, admin.secret_key, region_name=services.region)
        self.aws = Aws(session, Endpoint(services.endpoint, services.ca_bundle))

    def spool(
        self, lease_seconds: float = LEASE_SECONDS, renew: float = RENEW, *, timed: bool = False
    ) -> BucketSpool:
        role = f"arn:aws:iam::{SERVICE}:role/{ROLE}"
        sessions = Sessions(self.aws, role, self.services.region, Telemetry())
        kind = BucketSpool if timed else Untimed
        return kind(f"s3://{BUCKET}/{self.prefix}", sessions, lease_seconds, renew)

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        for file, content in sorted(files.items(), key=lambda item: item[0] == "manifest.cbor"):
            self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}/{file}", Body=content)

    def listed(self) -> list[str]:
        """Every key below the prefix, without it."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        return [str(item["Key"]).removeprefix(f"{self.prefix}/") for item in listed]

    def read(self, key: str) -> bytes:
        """An object below the prefix."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{key}")["Body"].read())

    def files(self, name: str) -> dict[str, bytes]:
        names = (key.removeprefix(f"{name}/") for key in self.listed() if key.startswith(f"{name}/"))
        return {file: self.read(f"{name}/{file}") for file in names if file != "lease"}

    def remove(self, name: str, *files: str) -> None:
        for file in files or self.files(name):
            self.client.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}/{file}")


def prepare(services: Services) -> None:
    """The versioned bucket, and a role with the rights on jobs that the deployment's has."""
    s3, iam = services.client("s3", "service"), services.client("iam", "service")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": services.region})
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{SERVICE}:user/admin"}}
    iam.create_role(
        RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(_policy(trust | {"Action": "sts:AssumeRole"}))
    )
    resources = templates.base_template(SETTINGS)["Resources"]
    (given,) = resources["ParentRole"]["Properties"]["Policies"]
    mine = [
        each
        for each in given["PolicyDocument"]["Statement"]
        if each["Sid"].endswith(("Jobs", "NeverReplaceResults"))
    ]
    text = json.dumps(_policy(*mine)).replace("${Results.Arn}", f"arn:aws:s3:::{BUCKET}")
    document = json.loads(text, object_hook=_resolved)
    iam.put_role_policy(RoleName=ROLE, PolicyName="jobs", PolicyDocument=json.dumps(document))


def _policy(*statements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _resolved(value: dict[str, Any]) -> Any:
    if "Fn::GetAtt" in value:
        return f"arn:aws:s3:::{BUCKET}"
    return value.get("Fn::Sub", value)


def job_files(auction: Auction) -> dict[str, bytes]:
    """A job's files."""
    seals = {f"{number}.seal": seal for number, seal in enumerate(auction.seals())}
    return {"manifest.cbor": auction.manifest.encode(), **seals}


@contextlib.contextmanager
def no_room(place: Place) -> Iterator[None]:
    """Within the block nothing can be written to the spool."""
    if isinstance(place, InFolder):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    assert isinstance(place, InBucket)
    deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "s3:PutObject"}
    deny["Resource"] = f"arn:aws:s3:::{BUCKET}/*"
    place.client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(_policy(deny)))
    try:
        yield
    finally:
        place.client.delete_bucket_policy(Bucket=BUCKET)
