"""An Auto Scaling group and its bucket on loopback, asked by boto3, with whatever a hostile writer puts.

Of S3 it has GetObject and ListObjectsV2, in pages and with URL encoding, and it refuses a wrong owner; of
Auto Scaling it has DescribeAutoScalingGroups.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import boto3
from botocore.config import Config

from coattest_enclave.protocol.alive import alive_user_data
from coattest_verify.rebuild.remeasure import binding_pcrs
from support.loopback import Handler, Loopback
from support.verify.fleet.worlds import FleetWorld, fleet_toml, module
from support.verify.nitro_ca import NOW, NOW_MS, PCRS, document

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/parent"
STACK = "coattest-shop-0123456789ab"
REGION = "eu-central-1"
PAGE = 1000
"""Keys that S3 lists at a time."""


def instance(number: int) -> str:
    """The id of an instance."""
    return module(number).partition("-enc")[0]


def live_document(number: int, at: datetime = NOW, *, on: int | None = None, **changes: Any) -> bytes:
    """The document of that enclave, as its instance (or that of another number) puts it."""
    bound = {**PCRS, **binding_pcrs(ROLE, instance(number if on is None else on))}
    stamp = NOW_MS + int((at - NOW).total_seconds() * 1000)
    fields = {"module_id": module(number), "pcrs": bound, "user_data": alive_user_data(), "timestamp": stamp}
    return document(**{**fields, "public_key": None, "nonce": None, **changes})


def live_toml(**changes: Any) -> str:
    """One source of a group's documents."""
    fields = {"name": "parents", "kind": "s3-live", "bucket": "results", "stack": STACK, "region": REGION}
    return fleet_toml({**fields, "releases": ["0.1.0"], "role-arn": ROLE, **changes})


@dataclass
class Cloud:
    """What is there: objects by key, each with its bytes (or who makes them) and when it was put, and the
    group's instances by state. ``asked`` has the requests, by kind.
    """

    world: FleetWorld
    instances: dict[str, str] = field(default_factory=dict)
    wanted: int = 0
    objects: dict[str, tuple[bytes | Callable[[], bytes], datetime]] = field(default_factory=dict)
    owner: str = ACCOUNT
    refuses: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    ordered: list[str] = field(default_factory=list)
    """The objects' keys, as they were when their number last changed."""
    huge: ClassVar[int] = 5 * 1024**3

    def put(self, name: str, data: bytes | Callable[[], bytes], at: datetime | None = None) -> None:
        """An object below the group's prefix."""
        self.objects[f"live/{STACK}/{name}"] = data, at or self.world.now

    def renew(self, *numbers: int) -> None:
        """Fresh documents of these instances, which are in service."""
        for number in numbers:
            self.instances.setdefault(instance(number), "InService")
            self.put(f"{instance(number)}/document.cbor", live_document(number, self.world.now))
        self.wanted = sum(state == "InService" for state in self.instances.values())

    def group(self) -> str:
        """The answer of DescribeAutoScalingGroups."""
        members = "".join(
            f"<member><InstanceId>{name}</InstanceId><LifecycleState>{state}</LifecycleState></member>"
            for name, state in self.instances.items()
        )
        group = (
            f"<member><AutoScalingGroupName>{STACK}</AutoScalingGroupName><DesiredCapacity>{self.wanted}"
            f"</DesiredCapacity><Instances>{members}</Instances></member>"
        )
        return (
            '<DescribeAutoScalingGroupsResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">'
            f"<DescribeAutoScalingGroupsResult><AutoScalingGroups>{group if self.wanted else ''}"
            "</AutoScalingGroups></DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
        )

    def page(self, prefix: str, after: str) -> str:
        """One page of ListObjectsV2, of what comes after a key."""
        if len(self.ordered) != len(self.objects):
            self.ordered = sorted(self.objects)
        start = bisect.bisect_right(self.ordered, max(prefix, after))
        keys = [key for key in self.ordered[start : start + PAGE + 1] if key.startswith(prefix)]
        items = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>1</Size><LastModified>"
            f"{self.objects[key][1]:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            for key in keys[:PAGE]
        )
        more = len(keys) > PAGE
        token = f"<NextContinuationToken>{quote(keys[PAGE - 1])}</NextContinuationToken>" if more else ""
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        )


class CloudHandler(Handler):
    """Answers for a Cloud, which a subclass has."""

    protocol_version = "HTTP/1.1"
    cloud: ClassVar[Cloud]

    def do_POST(self) -> None:
        """Auto Scaling."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._counted("group", lambda: self.answer(200, self.cloud.group().encode()))

    def do_GET(self) -> None:
        """S3."""
        parts = urlsplit(self.path)
        given = parse_qs(parts.query, keep_blank_values=True)
        if self.headers["x-amz-expected-bucket-owner"] != self.cloud.owner:
            self._refuse(403, "AccessDenied")
        elif "list-type" in given:
            assert given["encoding-type"] == ["url"]
            after = unquote(given.get("continuation-token", [""])[0])
            self._counted(
                "list", lambda: self.answer(200, self.cloud.page(given["prefix"][0], after).encode())
            )
        else:
            self._counted("get", lambda: self._object(unquote(parts.path.split("/", 2)[2])))

    def _counted(self, kind: str, answer: Callable[[], None]) -> None:
        self.cloud.asked.append(kind)
        if kind in self.cloud.refuses:
            self._refuse(403, "AccessDenied")
        else:
            answer()

    def _object(self, key: str) -> None:
        if key not in self.cloud.objects:
            self._refuse(404, "NoSuchKey")
            return
        data = self.cloud.objects[key][0]
        data = data() if callable(data) else data
        if len(data) < Cloud.huge // 1024:
            self.answer(200, data)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(Cloud.huge))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1024):
                self.wfile.write(data)
        self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        error = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        if self.command == "POST":  # the query protocol's
            error = f"<ErrorResponse>{error}</ErrorResponse>"
        self.answer(status, error.encode())


@contextlib.contextmanager
def running_cloud(world: FleetWorld) -> Iterator[Cloud]:
    """A cloud without anything, which the world's clients ask."""
    cloud = Cloud(world)
    with Loopback.of(type("Handling", (CloudHandler,), {"cloud": cloud})) as server:
        session = boto3.session.Session(aws_access_key_id="AKIA", aws_secret_access_key="x")
        config = Config(retries={"total_max_attempts": 1}, max_pool_connections=32)

        @functools.cache
        def client(service: str, region: str) -> Any:
            made: Any = session.client(service, region_name=region, endpoint_url=server.url, config=config)  # type: ignore[call-overload]
            return made

        world.clients = client
        yield cloud


LATER = timedelta(minutes=4)
"""Longer than a document's greatest age."""
