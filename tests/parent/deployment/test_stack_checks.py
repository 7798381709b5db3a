"""What plan refuses: each thing that AWS says cannot work is a finding with the page that it comes from."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from coattest_parent.deployment.stack import checks, planning
from support.build.images import plain
from support.parent.deployments import ACCOUNTS, SETTINGS, Release

ONE, TWO = SETTINGS.subnets
GOOD: dict[str, Any] = {
    "types": [
        {
            "NitroEnclavesSupport": "supported",
            "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
            "VCpuInfo": {"DefaultVCpus": 4, "DefaultThreadsPerCore": 2},
            "MemoryInfo": {"SizeInMiB": 8192},
        }
    ],
    "zones": frozenset({"a", "b"}),
    "images": [
        {
            "Architecture": "x86_64",
            "RootDeviceType": "ebs",
            "RootDeviceName": "/dev/xvda",
            "State": "available",
        }
    ],
    "subnets": [
        {"SubnetId": ONE, "VpcId": SETTINGS.vpc, "AvailabilityZone": "a", "MapPublicIpOnLaunch": False},
        {"SubnetId": TWO, "VpcId": SETTINGS.vpc, "AvailabilityZone": "b", "MapPublicIpOnLaunch": False},
    ],
    "tables": [
        {
            "RouteTableId": "rtb-main",
            "Associations": [{"Main": True}],
            "Routes": [
                {"DestinationCidrBlock": "172.31.0.0/16", "GatewayId": "local", "State": "active"},
                {"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1", "State": "active"},
            ],
        }
    ],
    "endpoints": [],
    "quota": 64.0,
}


def endpoint(service: str, region: str = "eu-central-1", **more: Any) -> dict[str, Any]:
    """An endpoint that is there."""
    found = {"ServiceName": f"com.amazonaws.{region}.{service}", "State": "available"}
    return {**found, "VpcEndpointType": "Interface", "PrivateDnsEnabled": True, **more}


ENDPOINTS = [endpoint("s3"), endpoint("logs"), endpoint("kms")]
INBOUND = {"PrivateDnsOnlyForInboundResolverEndpoint": True}
NO_ROUTE = {"tables": [{"RouteTableId": "rtb-main", "Associations": [{"Main": True}], "Routes": []}]}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> planning.StackPlan:
    """A plan whose image is small."""
    folder: Path = tmp_path_factory.mktemp("release")
    (folder / "image.eif").write_bytes(plain().build())
    release = Release.make(folder, folder / "image.eif")
    reports = {f"{name}.json": release.report(name) for name in ACCOUNTS}
    return planning.make_stack_plan(release.authority, release.image, SETTINGS, reports)


def found(plan: planning.StackPlan, changed: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    """The codes of what is wrong in a place that differs so from a good one."""
    place = checks.Site(**{**copy.deepcopy(GOOD), **(changed or {})})
    made = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, **settings))
    findings = list(checks.unworkable(made, place))
    assert all(each.rule for each in findings)
    return [each.code for each in findings]


def of_type(**changes: Any) -> dict[str, Any]:
    """Another instance type."""
    return {"types": [{**GOOD["types"][0], **changes}]}


def of_image(**changes: Any) -> dict[str, Any]:
    """Another machine image."""
    return {"images": [{**GOOD["images"][0], **changes}]}


def route(**target: Any) -> dict[str, Any]:
    """A main route table with this default route."""
    entry = {"DestinationCidrBlock": "0.0.0.0/0", "State": "active", **target}
    return {"tables": [{**NO_ROUTE["tables"][0], "Routes": [entry]}]}


PUBLIC = {"subnets": [{**each, "MapPublicIpOnLaunch": True} for each in GOOD["subnets"]]}


@pytest.mark.parametrize(
    ("changed", "settings", "codes"),
    [
        ({}, {}, []),
        ({"types": []}, {}, ["no-enclaves"]),
        (of_type(NitroEnclavesSupport="unsupported"), {}, ["no-enclaves"]),
        (of_type(ProcessorInfo={"SupportedArchitectures": ["arm64"]}), {}, ["instance-architecture"]),
        ({}, {"cpus": 4}, ["too-few-cpus"]),
        (of_type(VCpuInfo={"DefaultVCpus": 2, "DefaultThreadsPerCore": 2}), {}, ["too-few-cpus"]),
        # A core of Graviton is one vCPU.
        (of_type(VCpuInfo={"DefaultVCpus": 3, "DefaultThreadsPerCore": 1}), {}, []),
        ({}, {"memory": 8192}, ["too-little-memory"]),
        ({"images": []}, {}, ["wrong-ami"]),
        (of_image(Architecture="arm64"), {}, ["wrong-ami"]),
        (of_image(RootDeviceType="instance-store"), {}, ["wrong-ami"]),
        (of_image(RootDeviceName="/dev/sda1"), {}, ["wrong-ami"]),
        (of_image(State="deregistered"), {}, ["wrong-ami"]),
        ({"zones": frozenset({"a"})}, {}, ["too-few-zones"]),
        ({"quota": 7.0}, {}, ["over-quota"]),
        ({"quota": 8.0}, {}, []),
        ({"quota": 8.0}, {"capacity": 2}, ["over-quota"]),
        ({"quota": 7.0}, {"instance_type": "im4gn.xlarge"}, ["over-quota"]),
        # Another quota's.
        ({"quota": 7.0}, {"instance_type": "inf1.xlarge"}, []),
        # It could not be read: nothing is known.
        ({"quota": None}, {"capacity": 100}, []),
        (NO_ROUTE, {}, ["no-way-out"] * 6),
        ({**NO_ROUTE, "endpoints": ENDPOINTS}, {}, []),
        ({**NO_ROUTE, "endpoints": ENDPOINTS[:2]}, {}, ["no-way-out"] * 2),
        (
            {**NO_ROUTE, "endpoints": [*ENDPOINTS[:2], endpoint("kms", State="pending")]},
            {},
            ["no-way-out"] * 2,
        ),
        # Without private DNS the service's own name does not lead to it, nor for inbound resolvers only.
        (
            {**NO_ROUTE, "endpoints": [*ENDPOINTS[:2], endpoint("kms", PrivateDnsEnabled=False)]},
            {},
            ["no-way-out"] * 2,
        ),
        (
            {**NO_ROUTE, "endpoints": [endpoint("s3", DnsOptions=INBOUND), *ENDPOINTS[1:]]},
            {},
            ["no-way-out"] * 2,
        ),
        # An endpoint of another region serves its own region only.
        ({**NO_ROUTE, "endpoints": [*ENDPOINTS[:2], endpoint("kms", "eu-west-1")]}, {}, ["no-way-out"] * 2),
        (route(GatewayId="igw-1"), {}, ["no-way-out"] * 6),
        ({**route(GatewayId="igw-1"), **PUBLIC}, {}, []),
        (route(TransitGatewayId="tgw-1"), {}, []),
        (route(NatGatewayId="nat-1", State="blackhole"), {}, ["no-way-out"] * 6),
        # A firewall's endpoint, as AWS Network Firewall has it; a peer's gateways are not to be had.
        (route(GatewayId="vpce-0123456789abcdef0"), {}, []),
        (route(CoreNetworkArn="arn:aws:networkmanager::1:core-network/c"), {}, []),
        (route(VpcPeeringConnectionId="pcx-1"), {}, ["no-way-out"] * 6),
    ],
)
def test_what_cannot_work_is_a_finding(
    plan: planning.StackPlan, changed: dict[str, Any], settings: dict[str, Any], codes: list[str]
) -> None:
    """One difference from a place that works gives its own code, once for each thing that lacks."""
    assert found(plan, changed, **settings) == codes


def test_a_gateway_endpoint_serves_the_tables_that_name_it(plan: planning.StackPlan) -> None:
    """S3's gateway endpoint is a route of the subnet's own table; a table of its own goes before the main."""
    gateway = endpoint("s3", VpcEndpointType="Gateway", RouteTableIds=["rtb-main"])
    assert found(plan, {**NO_ROUTE, "endpoints": [gateway, *ENDPOINTS[1:]]}) == []
    own = {"RouteTableId": "rtb-own", "Associations": [{"SubnetId": ONE}], "Routes": []}
    tables = [*NO_ROUTE["tables"], own]
    assert found(plan, {"tables": tables, "endpoints": [gateway, *ENDPOINTS[1:]]}) == ["no-way-out"]


def test_both_subnets_in_one_zone_and_a_foreign_partition_are_findings(plan: planning.StackPlan) -> None:
    """Two subnets are not two zones; the enclave knows one name of KMS."""
    one = {"subnets": [{**each, "AvailabilityZone": "a"} for each in GOOD["subnets"]]}
    assert found(plan, one) == ["too-few-zones"]
    aws = dataclasses.replace(plan, decision=dataclasses.replace(plan.decision, profile="aws"))
    for region in ("us-gov-west-1", "cn-north-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1"):
        assert found(aws, {"tables": GOOD["tables"]}, region=region) == ["untrusted-partition"]


def test_subnets_elsewhere_are_findings(plan: planning.StackPlan) -> None:
    """One that is not in the region is not in its answer; one of another VPC is."""
    here, there = GOOD["subnets"]
    other = {**there, "VpcId": "vpc-0fffffffffffffff0"}
    assert found(plan, {"subnets": [here, other]}) == ["wrong-region"]
    assert found(plan, {"subnets": [here]}) == ["wrong-region", "too-few-zones"]


def test_bids_in_another_region_need_their_own_way(plan: planning.StackPlan) -> None:
    """A gateway endpoint serves its own region; an interface endpoint of S3 may lead to another."""
    far = [dataclasses.replace(plan.reports[0], kms=plan.reports[0].kms.replace("central", "west"))]
    there = dataclasses.replace(plan, reports=(*far, plan.reports[1]))
    gateway = endpoint("s3", VpcEndpointType="Gateway", RouteTableIds=["rtb-main"])
    own = [gateway, *ENDPOINTS[1:], endpoint("kms", "eu-west-1")]
    assert found(there, {**NO_ROUTE, "endpoints": own}) == ["no-way-out"] * 2
    assert found(there, {**NO_ROUTE, "endpoints": [*own, endpoint("s3", "eu-west-1")]}) == []


def test_a_key_for_one_instance_is_a_finding(plan: planning.StackPlan) -> None:
    """PCR4 is an instance's own, and a group's instances come and go."""
    bound = dataclasses.replace(plan.reports[0], one_instance=True)
    assert found(dataclasses.replace(plan, reports=(bound, plan.reports[1]))) == ["one-instance"]


def test_the_enclaves_memory_is_four_times_its_image(plan: planning.StackPlan) -> None:
    """nitro-cli would refuse less on the instance."""
    large = dataclasses.replace(plan, artifact=dataclasses.replace(plan.artifact, size=600 << 20))
    assert found(large) == ["too-little-memory"]
    assert found(large, memory=2400) == []


class TwoPages:
    """AWS that answers each question about EC2 in two pages of one thing each, and knows no quota."""

    def __init__(self) -> None:
        self.client = boto3.client("ec2", "eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")
        self.stub = Stubber(self.client)
        for operation, key, things in (
            (
                "describe_instance_type_offerings",
                "InstanceTypeOfferings",
                [{"Location": "a"}, {"Location": "b"}],
            ),
            ("describe_instance_types", "InstanceTypes", [{}, {}]),
            ("describe_images", "Images", [{}, {}]),
            ("describe_subnets", "Subnets", [{"SubnetId": ONE}, {"SubnetId": TWO}]),
            ("describe_route_tables", "RouteTables", [{"RouteTableId": "1"}, {"RouteTableId": "2"}]),
            ("describe_vpc_endpoints", "VpcEndpoints", [{"VpcEndpointId": "1"}, {"VpcEndpointId": "2"}]),
        ):
            asked: dict[str, Any] = {"Filters": ANY}
            if key == "InstanceTypeOfferings":
                asked["LocationType"] = "availability-zone"
            self.stub.add_response(operation, {key: things[:1], "NextToken": "more"}, asked)
            self.stub.add_response(operation, {key: things[1:]}, {**asked, "NextToken": "more"})

    def ec2(self, region: str) -> Any:
        assert region == SETTINGS.region
        return self.client

    def quotas(self, region: str) -> Any:
        client = boto3.client("service-quotas", region, aws_access_key_id="x", aws_secret_access_key="x")
        stub = Stubber(client)
        stub.add_client_error("get_service_quota", "NoSuchResourceException")
        stub.activate()
        return client


def test_every_page_of_an_answer_is_read() -> None:
    aws = TwoPages()
    with aws.stub:
        site = checks.look(SETTINGS, aws)
        aws.stub.assert_no_pending_responses()
    assert site.zones == {"a", "b"}
    assert [each["SubnetId"] for each in site.subnets] == [ONE, TWO]
    assert [each["RouteTableId"] for each in site.tables] == ["1", "2"]
    assert [each["VpcEndpointId"] for each in site.endpoints] == ["1", "2"]
    assert (len(site.types), len(site.images), site.quota) == (2, 2, None)
