"""What AWS says will not work, found when the plan is made and not half an hour later.

``look`` asks, ``unworkable`` judges what came back and is pure. Each finding's rule is the page of AWS's
documentation that it comes from; docs/deployment.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coattest.aws import FORBIDDEN, aws_errors
from coattest.errors import FoundFalse, UsageError
from coattest.findings import Finding
from coattest_parent.deployment.stack.planning import StackPlan
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.link.aws import Aws

LATEST = "latest"
AL2023 = {"x86_64": "al2023-ami-2023.*-kernel-6.1-x86_64", "aarch64": "al2023-ami-2023.*-kernel-6.1-arm64"}
"""Names of AWS's own images (AL2023 User Guide, "AL2023 on Amazon EC2")."""

_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
"""EC2's names of the image's architectures."""

PARENT_MIB = 1024
"""MiB that the parent itself keeps: its system, courier and proxy use some 400."""

PARTITIONS = ("aws",)
"""Partitions whose KMS the enclave reaches: it knows kms.REGION.amazonaws.com."""

MEMORY_TIMES = 4
"""An enclave's memory by the size of its image file: nitro-cli refuses less."""

QUOTA = ("ec2", "L-1216C47A")
"""Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances, in vCPUs."""

STANDARD, NOT_STANDARD = tuple("acdhimrtz"), ("dl", "hpc", "inf", "mac", "trn")
"""What names of types begin with; those of the second have quotas of their own."""

_OUT = ("NatGatewayId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId", "CoreNetworkArn")
"""A route's targets by which a private instance gets out; where they lead is not AWS's to say. A peering
connection is none: nobody uses another VPC's gateways through it (VPC Peering Guide, "VPC peering basics").
"""

_GATEWAYS = ("vgw-", "vpce-")
"""And its gateways: a VPN's, and a Gateway Load Balancer's endpoint, as firewalls have it."""


@dataclass(frozen=True, slots=True)
class Site:
    """What AWS says of the place of a deployment, as its APIs give it; ``quota`` is None where it was not to
    be read.
    """

    types: Sequence[Mapping[str, Any]]
    zones: frozenset[str]
    images: Sequence[Mapping[str, Any]]
    subnets: Sequence[Mapping[str, Any]]
    tables: Sequence[Mapping[str, Any]]
    endpoints: Sequence[Mapping[str, Any]]
    quota: float | None


def require_workable(plan: StackPlan, aws: Aws) -> None:
    """Raise FoundFalse (unworkable) with a finding for each thing of the plan that cannot work; AwsFailure
    where AWS did not answer.
    """
    findings = tuple(unworkable(plan, look(plan.settings, aws)))
    if findings:
        raise FoundFalse(
            f"this cannot work: {'; '.join(map(str, findings))}",
            where=plan.settings.name,
            hint="docs/deployment.md, 'What plan refuses'",
            code="unworkable",
            findings=findings,
        )


def look(settings: Settings, aws: Aws) -> Site:
    """Ask AWS about the place. Raises AwsFailure."""
    ec2, kind = aws.ec2(settings.region), settings.instance_type
    # By filters: what is not there is not in the answer, and no error.
    of_kind, in_vpc = _named("instance-type", kind), _named("vpc-id", settings.vpc)
    with aws_errors(settings.region):
        in_zones = {"LocationType": "availability-zone", "Filters": of_kind}
        offered = _listed(ec2, "describe_instance_type_offerings", "InstanceTypeOfferings", **in_zones)
        return Site(
            _listed(ec2, "describe_instance_types", "InstanceTypes", Filters=of_kind),
            frozenset(str(each.get("Location")) for each in offered),
            _listed(ec2, "describe_images", "Images", Filters=_named("image-id", settings.ami)),
            _listed(ec2, "describe_subnets", "Subnets", Filters=_named("subnet-id", *settings.subnets)),
            _listed(ec2, "describe_route_tables", "RouteTables", Filters=in_vpc),
            _listed(ec2, "describe_vpc_endpoints", "VpcEndpoints", Filters=in_vpc),
            _quota(aws, settings.region),
        )


def latest_ami(aws: Aws, region: str, architecture: str) -> str:
    """The newest image of Amazon Linux 2023; the plan names its id. Raises UsageError (no-ami)."""
    name = AL2023[architecture]
    filters = [*_named("name", name), *_named("state", "available")]
    with aws_errors(LATEST):
        found = _listed(aws.ec2(region), "describe_images", "Images", Owners=["amazon"], Filters=filters)
    if not found:
        raise UsageError(f"no image {name} in {region}", where="--ami", hint="name one", code="no-ami")
    return str(max(found, key=lambda each: each.get("CreationDate", "")).get("ImageId"))


def unworkable(plan: StackPlan, place: Site) -> Iterator[Finding]:
    """Everything that cannot work. Pure."""
    yield from _of_type(plan, place)
    yield from _of_image(plan, place)
    yield from _of_network(plan, place)
    for report in plan.reports:
        if report.one_instance:
            bound = "its key's policy requires PCR4, so one instance's enclave, and parents come and go"
            yield _not("one-instance", report.member, bound, _MEASUREMENTS)
    settings = plan.settings
    if plan.decision.profile != "local" and settings.partition not in PARTITIONS:
        reached, needed = "the enclave reaches KMS of these partitions only", ", ".join(PARTITIONS)
        yield _not("untrusted-partition", settings.region, reached, _KMS, needed, settings.partition)


def _of_type(plan: StackPlan, place: Site) -> Iterator[Finding]:
    settings, kind = plan.settings, plan.settings.instance_type
    if not place.types:
        yield _not("no-enclaves", kind, "there is no such type in the region", _TYPES)
        return
    found = place.types[0]
    if found.get("NitroEnclavesSupport") != "supported":
        yield _not("no-enclaves", kind, "this type has no enclaves", _TYPES)
    wanted = _ARCHITECTURES[plan.decision.architecture]
    have = found.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    if wanted not in have:
        yield _not("instance-architecture", kind, "the image is for", _TYPES, wanted, ", ".join(have))
    cpus, memory = found["VCpuInfo"]["DefaultVCpus"], found["MemoryInfo"]["SizeInMiB"]
    # The parent keeps the core of CPU 0: two vCPUs where a core has two.
    own = found["VCpuInfo"].get("DefaultThreadsPerCore", 2)
    needs = -(-MEMORY_TIMES * plan.artifact.size // (1 << 20))
    if settings.cpus + own > cpus:
        room = f"{cpus - own} of {cpus}"
        yield _not("too-few-cpus", kind, "vCPUs left for the enclave", _SIZES, settings.cpus, room)
    if settings.memory + PARENT_MIB > memory:
        room = f"{memory - PARENT_MIB} of {memory}"
        yield _not("too-little-memory", kind, "MiB left for the enclave", _SIZES, settings.memory, room)
    if settings.memory < needs:
        times = f"MiB, {MEMORY_TIMES} times the image"
        yield _not("too-little-memory", "--memory", times, _NITRO_CLI, needs, settings.memory)
    zones = {str(each.get("AvailabilityZone")) for each in place.subnets}
    for zone in sorted(zones - place.zones):
        yield _not("too-few-zones", zone, f"{kind} is not offered there", _OFFERINGS)
    twice, quota = 2 * settings.capacity * cpus, " ".join(QUOTA)
    standard = kind.startswith(STANDARD) and not kind.startswith(NOT_STANDARD)
    if place.quota is not None and standard and twice > place.quota:
        upgrade = "vCPUs for an upgrade, in which the parents of both releases run"
        yield _not("over-quota", quota, upgrade, _QUOTAS, twice, f"{place.quota:.0f}")


def _of_image(plan: StackPlan, place: Site) -> Iterator[Finding]:
    ami = plan.settings.ami
    if not place.images:
        yield _not("wrong-ami", ami, "there is no such image in the region", _IMAGES)
        return
    wanted = {
        "Architecture": _ARCHITECTURES[plan.decision.architecture],
        "RootDeviceType": "ebs",
        "RootDeviceName": "/dev/xvda",
        "State": "available",
    }
    for name, value in wanted.items():
        if (found := place.images[0].get(name)) != value:
            yield _not("wrong-ami", ami, f"its {name}", _IMAGES, value, found)


def _of_network(plan: StackPlan, place: Site) -> Iterator[Finding]:
    settings = plan.settings
    there = {each.get("SubnetId") for each in place.subnets if each.get("VpcId") == settings.vpc}
    for name in sorted(set(settings.subnets) - there):
        where = f"the subnet is not in {settings.vpc} in {settings.region}"
        yield _not("wrong-region", name, where, _SUBNETS)
    zones = {str(each.get("AvailabilityZone")) for each in place.subnets}
    if len(zones) < 2:
        subnets = ", ".join(settings.subnets)
        yield _not("too-few-zones", subnets, "zones of the subnets", _ZONES, 2, len(zones))
    needed = {("s3", settings.region), ("logs", settings.region)}
    # A buyer's stack has key and bucket in one region.
    needed |= {(service, report.region) for report in plan.reports for service in ("kms", "s3")}
    for subnet in place.subnets:
        table = _table_of(subnet, place.tables)
        if _leads_out(subnet, table):
            continue
        reached = {_reached(each) for each in place.endpoints if _serves(each, table.get("RouteTableId", ""))}
        for service, region in sorted(needed - reached):
            lacks = f"no route out, and no endpoint of {service} in {region} that its own name leads to"
            yield _not("no-way-out", str(subnet.get("SubnetId")), lacks, _WAYS)


def _table_of(subnet: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The subnet's own route table, else the VPC's main one (VPC User Guide, "Subnet route tables")."""
    held = [(each, table) for table in tables for each in table.get("Associations", [])]
    own = [table for each, table in held if each.get("SubnetId") == subnet.get("SubnetId")]
    return next(iter([*own, *(table for each, table in held if each.get("Main"))]), {})


def _leads_out(subnet: Mapping[str, Any], table: Mapping[str, Any]) -> bool:
    """Whether there is a default route that an instance of the subnet can use: an internet gateway serves
    those with a public address only.
    """
    for route in table.get("Routes", []):
        if route.get("DestinationCidrBlock") != "0.0.0.0/0" or route.get("State", "active") != "active":
            continue
        gateway = str(route.get("GatewayId") or "")
        if gateway.startswith("igw-") and subnet.get("MapPublicIpOnLaunch"):
            return True
        if gateway.startswith(_GATEWAYS) or any(route.get(name) for name in _OUT):
            return True
    return False


def _serves(endpoint: Mapping[str, Any], table: str) -> bool:
    """Whether an endpoint is there for instances whose subnet has this route table, and the service's own
    name leads to it: what a gateway endpoint does by a route, an interface endpoint does by private DNS
    (PrivateLink Guide, "DNS hostnames"), unless that is for inbound resolvers only ("Private DNS", S3).
    """
    if str(endpoint.get("State", "")).lower() != "available":
        return False
    if endpoint.get("VpcEndpointType") == "Gateway":
        return table in endpoint.get("RouteTableIds", [])
    inbound_only = endpoint.get("DnsOptions", {}).get("PrivateDnsOnlyForInboundResolverEndpoint")
    return bool(endpoint.get("PrivateDnsEnabled")) and not inbound_only


def _reached(endpoint: Mapping[str, Any]) -> tuple[str, str]:
    """Service and region of ``com.amazonaws.REGION.SERVICE``."""
    name = str(endpoint.get("ServiceName", "")).split(".")
    return (name[-1], name[-2]) if len(name) >= 4 else ("", "")


def _named(name: str, *values: str) -> Any:
    """EC2's filter for things of these names."""
    return [{"Name": name, "Values": list(values)}]


def _listed(ec2: Any, operation: str, key: str, **asked: Any) -> list[Any]:
    """What is under ``key`` of every page of the answer."""
    return [each for page in ec2.get_paginator(operation).paginate(**asked) for each in page[key]]


def _quota(aws: Aws, region: str) -> float | None:
    service, code = QUOTA
    with aws_errors(f"quota {code}", *FORBIDDEN, "NoSuchResourceException"):
        answer = aws.quotas(region).get_service_quota(ServiceCode=service, QuotaCode=code)
        return float(answer["Quota"]["Value"])
    return None


_TYPES = "Nitro Enclaves User Guide, Requirements: parent instance"
_SIZES = "Nitro Enclaves User Guide, Requirements; Considerations"
_MEASUREMENTS = "Nitro Enclaves User Guide, Where to get an enclave's measurements"
_NITRO_CLI = "aws-nitro-enclaves-cli, run-enclave (E26)"
_KMS = "AWS General Reference, KMS endpoints and quotas"
_QUOTAS = "EC2 User Guide, Amazon EC2 service quotas"
_ZONES = "Amazon EC2 Auto Scaling User Guide, Availability Zones"
_OFFERINGS = "API Reference, EC2 DescribeInstanceTypeOfferings"
_IMAGES = "API Reference, EC2 DescribeImages"
_SUBNETS = "API Reference, EC2 DescribeSubnets"
_WAYS = "VPC User Guide, Route tables; AWS PrivateLink Guide, Gateway endpoints, Private DNS, Cross-Region"


def _not(code: str, where: str, detail: str, rule: str, *values: object) -> Finding:
    """A finding; ``values`` are what is needed, and what there is."""
    if not values:
        return Finding(code, where, detail, rule=rule)
    needed, there = map(str, values)
    return Finding(code, where, f"{detail}: {needed} needed, {there} there", needed, there, rule=rule)
