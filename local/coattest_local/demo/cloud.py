"""The demo's accounts: what each buyer and the service own at the local KMS, S3 and IAM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from coattest_local.aws import services as local_services
from coattest_local.aws.services import Services
from coattest_verify.keypolicy.snippets import put_once_statements

REGION = local_services.REGION
PARENT_ROLE = "coattest-parent"
BIDDER = "bidder"
BREAK_GLASS = "break-glass"
PREFIX = "bids/"
INSTANCE_ID = "i-0c0a77e57c0a77e57"


@dataclass(frozen=True, slots=True)
class BuyerCloud:
    """A buyer's own account: its key, its bucket, who administers and who encrypts."""

    account: str
    key_arn: str
    bucket: str
    administrators: tuple[str, ...]
    encrypter: str
    environment: dict[str, str]

    @property
    def bids_uri(self) -> str:
        """The place of this buyer's bid files."""
        return f"s3://{self.bucket}/{PREFIX}"


@dataclass(frozen=True, slots=True)
class ServiceCloud:
    """The service's account: the parent instance's role."""

    account: str
    role_arn: str


def make_service(services: Services, buyers: tuple[str, ...]) -> ServiceCloud:
    """Create the buyers' users, and the parent's role: its own policy allows what theirs must allow too."""
    owner = services.accounts["service"]
    iam = services.client("iam", "service")
    for name in buyers:  # a bucket policy names users of other accounts, so all of them come first
        users = services.client("iam", name)
        for user in (BIDDER, BREAK_GLASS):  # who encrypts, and who is there when the administrator is not
            users.create_user(UserName=user)
    trust = statement_of({"AWS": f"arn:aws:iam::{owner.account}:user/admin"}, "sts:AssumeRole", None)
    role = iam.create_role(RoleName=PARENT_ROLE, AssumeRolePolicyDocument=access_policy(trust))["Role"]
    keys = [f"arn:aws:kms:{REGION}:{services.accounts[name].account}:key/*" for name in buyers]
    objects = [f"arn:aws:s3:::{_bucket(services, name)}/*" for name in buyers]
    rights = access_policy(
        statement_of(None, "kms:Decrypt", keys), statement_of(None, "s3:GetObject", objects)
    )
    iam.put_role_policy(RoleName=PARENT_ROLE, PolicyName="carry-and-decrypt", PolicyDocument=rights)
    return ServiceCloud(owner.account, role["Arn"])


def make_buyer(services: Services, name: str, parent_role: str) -> BuyerCloud:
    """Create a buyer's bucket (the parent may read it), its key, and the principal that encrypts."""
    account = services.accounts[name].account
    iam, kms, s3 = (services.client(service, name) for service in ("iam", "kms", "s3"))
    admin = f"arn:aws:iam::{account}:user/admin"
    break_glass = f"arn:aws:iam::{account}:user/{BREAK_GLASS}"
    bidder = f"arn:aws:iam::{account}:user/{BIDDER}"
    access = iam.create_access_key(UserName=BIDDER)["AccessKey"]
    bucket = _bucket(services, name)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    readers = [
        parent_role,
        *(
            f"arn:aws:iam::{services.accounts[other].account}:user/{BIDDER}"
            for other in services.accounts
            if other.startswith("buyer-")
        ),
    ]
    objects = f"arn:aws:s3:::{bucket}/{PREFIX}*"
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=access_policy(
            statement_of({"AWS": sorted(readers)}, "s3:GetObject", [objects]),
            statement_of({"AWS": sorted(readers)}, "s3:ListBucket", [f"arn:aws:s3:::{bucket}"]),
            *put_once_statements([bidder], objects),
        ),
    )
    key = kms.create_key(Description="bids")["KeyMetadata"]
    # No wider than what it does: encrypt under its own key, put at its own place, read what others sealed.
    rights = access_policy(
        statement_of(None, "kms:Encrypt", [key["Arn"]]),
        statement_of(None, "s3:PutObject", [objects]),
        statement_of(None, ["s3:GetObject", "s3:ListBucket"], _places(services)),
    )
    iam.put_user_policy(UserName=BIDDER, PolicyName="bid", PolicyDocument=rights)
    environment = services.environment(name) | {
        "AWS_ACCESS_KEY_ID": access["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": access["SecretAccessKey"],
    }
    return BuyerCloud(account, key["Arn"], bucket, (admin, break_glass), bidder, environment)


def _bucket(services: Services, name: str) -> str:
    return f"{name}-bids-{services.accounts[name].account}"


def _places(services: Services) -> list[str]:
    """Every buyer's bucket and its bids."""
    buckets = [_bucket(services, name) for name in sorted(services.accounts) if name.startswith("buyer-")]
    return [arn for name in buckets for arn in (f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/{PREFIX}*")]


def access_policy(*statements: dict[str, Any]) -> str:
    """A policy of these statements, as text."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def statement_of(principal: Any, action: Any, resource: Any, effect: str = "Allow") -> dict[str, Any]:
    """A statement; of another policy than a resource's it has no principal, of a role's no resource."""
    statement = {"Effect": effect, "Principal": principal, "Action": action, "Resource": resource}
    return {name: value for name, value in statement.items() if value is not None}
