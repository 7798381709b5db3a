"""Live documents: every parent of an Auto Scaling group puts its enclave's into S3 each minute.

Who must answer, Auto Scaling says. A document is believed for its signature alone: PCR3 and PCR4 bind it to
the role and to one instance, and its signed time to now. Who can write to the bucket can cause silence, and
what is found false, never acceptance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from coattest.aws import aws_errors
from coattest.errors import EnvironmentFailure
from coattest.text import printable
from coattest_enclave.protocol import alive
from coattest_verify.attestation import Expectation, ExpectPublicKey, ExpectUserData
from coattest_verify.attestation.limits import DOCUMENT_MAX

LIVE_MAX_AGE_MS: Final = 3 * 60 * 1000
"""Milliseconds since a document was signed: they come every minute, and two in a row may be lost."""

IN_SERVICE: Final = "InService"
"""The life-cycle state of an instance that must answer (Auto Scaling User Guide, "instance lifecycle")."""

DOCUMENT, LOG = "document.cbor", "failed.log"
"""What an instance puts: its newest document, and why it gave up."""

STALE: Final = frozenset({"too-old", "certificate-dates"})
"""Findings of a document that was good once: its instance is silent, and nothing is false."""

LOG_MAX: Final = 300
"""Characters of a failed boot's log that are shown: its last line says what failed."""

LISTED_MAX: Final = 50_000
"""Objects of one group that are listed, 1,000 at a time: three for each enclave that a fleet may have."""


@dataclass(frozen=True, slots=True)
class AutoScalingGroup:
    """Instance ids with their life-cycle states, in order, and how many the group wants; none without one."""

    instances: Mapping[str, str]
    wanted: int

    @property
    def in_service(self) -> tuple[str, ...]:
        """The instances that must answer."""
        return tuple(name for name, state in self.instances.items() if state == IN_SERVICE)


@dataclass(frozen=True, slots=True)
class LiveObjects:
    """The objects of one group in a bucket; S3 refuses one of that name that is not ``owner``'s."""

    s3: Any
    bucket: str
    owner: str
    group: str

    def place(self, instance: str, name: str = DOCUMENT) -> str:
        """The key of an instance's object."""
        return f"live/{self.group}/{instance}/{name}"

    def read(self, instance: str, name: str = DOCUMENT) -> bytes | None:
        """An object's first bytes, one more than a document may have; None where there is none.

        Raises AwsFailure.
        """
        key, content = self.place(instance, name), None
        with aws_errors(f"s3://{self.bucket}/{key}", "NoSuchKey"):
            answer = self.s3.get_object(Bucket=self.bucket, Key=key, ExpectedBucketOwner=self.owner)
            with contextlib.closing(answer["Body"]) as body:
                content = bytes(body.read(DOCUMENT_MAX + 1))
        return content

    def failed_boot(self, instance: str) -> EnvironmentFailure | None:
        """The error (boot-failed) of an instance that gave up and left its log; None where it did not."""
        log = self.read(instance, LOG)
        if log is None:
            return None
        return EnvironmentFailure(
            f"its boot failed: {_last_line(log)}",
            where=instance,
            hint=f"the whole log is s3://{self.bucket}/{self.place(instance, LOG)}",
            code="boot-failed",
        )

    def listed(self) -> Iterator[tuple[str, datetime]]:
        """What comes after ``live/GROUP/`` in each object's key, and when it was put; LISTED_MAX and no more.

        Raises AwsFailure.
        """
        prefix = self.place("", "")[:-1]
        with aws_errors(f"s3://{self.bucket}/{prefix}"):
            pages = self.s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket,
                Prefix=prefix,
                ExpectedBucketOwner=self.owner,
                PaginationConfig={"MaxItems": LISTED_MAX},
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield str(item["Key"]).removeprefix(prefix), item["LastModified"].astimezone(timezone.utc)


def group_of(autoscaling: Any, name: str) -> AutoScalingGroup:
    """A group as it is now, by a boto3 client. Raises AwsFailure."""
    with aws_errors(name):
        answer = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        groups = answer["AutoScalingGroups"]
        found = {
            str(each["InstanceId"]): str(each["LifecycleState"])
            for group in groups
            for each in group.get("Instances", ())
        }
        wanted = sum(int(group.get("DesiredCapacity", 0)) for group in groups)
    return AutoScalingGroup(dict(sorted(found.items())), wanted)


def alive_expectations() -> tuple[Expectation, ...]:
    """What the answer to ``alive`` has beside registers, time and nonce: its purpose, and no key."""
    return ExpectUserData(alive.alive_user_data()), ExpectPublicKey(None)


def _last_line(log: bytes) -> str:
    """The last line of a log that has any words: it comes from an instance, so it is only text."""
    lines = [line for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(lines[-1])[-LOG_MAX:] if lines else "it says nothing"
