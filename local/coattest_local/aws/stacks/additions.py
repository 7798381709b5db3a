"""What moto's CloudFormation lacks: bucket policies, updates of key policies, a stack's state after a change.

moto is changed in place, once a process (``extend_moto``).
"""

from __future__ import annotations

import json
from typing import Any

from moto.cloudformation.models import ChangeSet, Stack, cloudformation_backends
from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends
from moto.iam.access_control import PermissionResult
from moto.kms.models import Key, kms_backends
from moto.s3.models import FakeBucket, s3_backends

from coattest_local.aws.accounts import PARTITION


class BucketPolicy(CloudFormationModel):  # type: ignore[misc]
    """AWS::S3::BucketPolicy, which moto's CloudFormation does not know."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    @property
    def physical_resource_id(self) -> str:
        """Its name in the stack: the bucket's."""
        return self.bucket

    @staticmethod
    def cloudformation_name_type() -> str:
        """No property names it."""
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        """The resource type."""
        return "AWS::S3::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> BucketPolicy:
        """Put the policy on its bucket."""
        properties = cloudformation_json["Properties"]
        text = json.dumps(properties["PolicyDocument"]).encode()
        s3_backends[account_id][PARTITION].put_bucket_policy(properties["Bucket"], text)
        return cls(properties["Bucket"])

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> BucketPolicy:
        """Put the new policy."""
        return cls.create_from_cloudformation_json(
            new_resource_name, cloudformation_json, account_id, region_name
        )

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> None:
        """Take the policy away."""
        s3_backends[account_id][PARTITION].delete_bucket_policy(resource_name)


def _update_key(
    original_resource: Any,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> Any:
    """An update of AWS::KMS::Key: its policy and its tags, in place."""
    properties = cloudformation_json["Properties"]
    backend = kms_backends[account_id][region_name]
    backend.put_key_policy(original_resource.id, json.dumps(properties["KeyPolicy"]))
    # Its tag_resource takes KMS's list in one release of moto and a map in another.
    tags = [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])]
    backend.tagger.tag_resource(original_resource.id, tags)
    return original_resource


def _create_key(
    resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> Any:
    """AWS::KMS::Key with its policy as text and its tags in KMS's words; moto's own takes neither."""
    properties = cloudformation_json["Properties"]
    key = kms_backends[account_id][region_name].create_key(
        json.dumps(properties["KeyPolicy"]),
        "ENCRYPT_DECRYPT",
        "SYMMETRIC_DEFAULT",
        properties.get("Description"),
        [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])],
    )
    key.key_rotation_status = bool(properties.get("EnableKeyRotation"))
    return key


def _permitted(self: FakeBucket, action: str, resource: str) -> Any:
    return PermissionResult.PERMITTED


def _parameter_list(self: Stack) -> list[dict[str, str]]:
    """A stack's parameters as they were given: moto shows a list as Python would."""
    every = self.resource_map.resolved_parameters.items()
    return [
        {"ParameterKey": key, "ParameterValue": ",".join(value) if isinstance(value, list) else str(value)}
        for key, value in every
    ]


def _parse_change_set(self: ChangeSet) -> None:
    """moto's reading of a template, after which every resource has properties: moto makes none without."""
    _PARSE(self)
    for resource in self.template_dict["Resources"].values():
        resource.setdefault("Properties", {})


_PARSE = ChangeSet._parse_template


def extend_moto() -> None:
    """Teach moto's CloudFormation what it lacks; once a process. It finds BucketPolicy by itself."""
    # moto's reading of a bucket policy knows no conditions; the gate has decided before moto is asked.
    FakeBucket.get_permission = _permitted
    changes: Any = ChangeSet
    changes._parse_template = _parse_change_set
    shown: Any = Stack
    shown.parameter_list = property(_parameter_list)
    Key.create_from_cloudformation_json = staticmethod(_create_key)
    Key.update_from_cloudformation_json = staticmethod(_update_key)


def lead_out(account: str, region: str) -> None:
    """Give the region's default VPC its internet gateway and route, which moto's lacks (VPC User Guide,
    "Default VPC components").
    """
    backend: Any = ec2_backends[account][region]
    (vpc,) = [each for each in backend.vpcs.values() if each.is_default]
    if any(each.vpc and each.vpc.id == vpc.id for each in backend.internet_gateways.values()):
        return
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc.id)
    (table,) = [each for each in backend.route_tables.values() if each.vpc_id == vpc.id]
    backend.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)


def stack_named(name: str, account: str, region: str) -> Any | None:
    """moto's stack of that name or id; None when there is none."""
    stacks: Any = cloudformation_backends[account][region].stacks.values()
    return next((stack for stack in stacks if name in (stack.name, stack.stack_id)), None)


def change_set_named(name: str, stack: str, account: str, region: str) -> Any | None:
    """moto's change set of that id, or of that name and stack (a name or an id); None when there is none."""
    sets: Any = cloudformation_backends[account][region].change_sets.values()
    return next(
        (
            each
            for each in sets
            if each.change_set_id == name
            or (each.change_set_name == name and stack in (each.stack.name, each.stack.stack_id))
        ),
        None,
    )


def drop_unmade(stack: Any, account: str, region: str) -> None:
    """Forget a stack that was never made, whose place a new change set takes: moto would make another."""
    backend: Any = cloudformation_backends[account][region]
    backend.stacks.pop(stack.stack_id, None)
    for key in [key for key, each in backend.change_sets.items() if each.stack is stack]:
        del backend.change_sets[key]


def settle(change_set: Any) -> None:
    """Give a stack its executed change set's parameters, tags and outputs; moto keeps the old ones."""
    stack: Any = change_set.stack
    stack.parameters = change_set.parameters
    stack.tags = {**stack.tags, **(change_set.tags or {})}
    stack.template_dict = change_set.template_dict
    stack.status_reason = None
    stack.output_map = stack._create_output_map()
