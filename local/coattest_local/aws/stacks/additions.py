"""What moto's models lack: bucket policies, and updates of key policies.

moto is changed in place, once a process (``extend_moto``).
"""

from __future__ import annotations

import json
from typing import Any, cast

from moto.core.common_models import CloudFormationModel
from moto.iam.access_control import PermissionResult
from moto.kms.models import Key, kms_backends
from moto.s3.models import FakeBucket, s3_backends

from coattest_local.aws.accounts import PARTITION


class BucketPolicy(CloudFormationModel):  # type: ignore[misc]
    """AWS::S3::BucketPolicy, which moto's CloudFormation does not know; its name in a stack is the bucket's.

    moto finds the class by itself.
    """

    def __init__(self, bucket: str) -> None:
        self.physical_resource_id = bucket

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
    def update_from_cloudformation_json(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, original_resource: Any, **given: Any
    ) -> BucketPolicy:
        """Put the new policy."""
        return cls.create_from_cloudformation_json(original_resource.physical_resource_id, **given)

    def delete(self, account_id: str, _: str) -> None:
        """Take the policy away; moto may have deleted the bucket before it, in the order of a set."""
        if bucket := s3_backends[account_id][PARTITION].buckets.get(self.physical_resource_id):
            bucket.policy = None


def _in_kms_words(resource: Any) -> Any:
    """AWS::KMS::Key with its policy as text and its tags as KMS names them; moto's own takes neither."""
    properties = resource["Properties"]
    tags = [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])]
    policy = json.dumps(properties["KeyPolicy"])
    return {**resource, "Properties": {**properties, "KeyPolicy": policy, "Tags": tags}}


def _create_key(resource_name: str, cloudformation_json: Any, *place: str, **_: Any) -> Any:
    return _CREATE(resource_name, _in_kms_words(cloudformation_json), *place)


_CREATE = Key.create_from_cloudformation_json


def _update_key(
    original_resource: Any, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> Any:
    """An update of AWS::KMS::Key: its policy and its tags, in place."""
    properties = _in_kms_words(cloudformation_json)["Properties"]
    backend = kms_backends[account_id][region_name]
    backend.put_key_policy(original_resource.id, properties["KeyPolicy"])
    # Its tag_resource takes KMS's list in one release of moto and a map in another.
    backend.tagger.tag_resource(original_resource.id, properties["Tags"])
    return original_resource


def extend_moto() -> None:
    """Teach moto's models what they lack; once a process."""
    # moto's reading of a bucket policy knows no conditions; the gate has decided before moto is asked.
    bucket, key = cast(Any, FakeBucket), cast(Any, Key)
    bucket.get_permission = lambda *_: PermissionResult.PERMITTED
    key.create_from_cloudformation_json = staticmethod(_create_key)
    key.update_from_cloudformation_json = staticmethod(_update_key)
