"""The enclave program as a process over Unix sockets, with the simulated NSM; and what an auction needs of
AWS.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest_enclave.protocol.binding import AUCTION, BUYER, IMAGE, SEAL_KEY, seal_key_digest
from coattest_local.aws.services import Services
from coattest_local.host.nsm import SimulatedNsm, boot_pcrs
from coattest_local.host.nsm_server import NsmServer
from coattest_parent.link.aws import Aws, Endpoint
from coattest_verify.keypolicy import generate as policy
from coattest_verify.keypolicy.snippets import put_once_statements
from coattest_verify.quorum.decision import Decision
from coattest_verify.rebuild.remeasure import binding_pcrs
from support.enclave.running_enclave import START
from support.verify import decisions

ROOT = Path(__file__).resolve().parents[3]
ROLE = "arn:aws:iam::111122223333:role/coattest-parent"
INSTANCE = "i-0c0a77e57c0a77e57"
PCRS = {index: hashlib.sha384(b"test image %d" % index).digest() for index in (0, 1, 2)}


def decision(pcrs: Mapping[int, bytes] = PCRS, release: str = "0.1.0") -> Decision:
    """A decision for an image with these measurements."""
    return decisions.decision(
        release=release,
        profile="local",
        pcrs={index: value.hex() for index, value in pcrs.items()},
        expires=datetime.now(timezone.utc) + timedelta(days=30),
    )


@dataclass(frozen=True, slots=True)
class LocalEnclave:
    """A running enclave program."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"unix:{self.directory / 'in_5005.sock'}"


@contextlib.contextmanager
def enclave(*, pcrs: Mapping[int, bytes] = PCRS, debug: bool = False) -> Iterator[LocalEnclave]:
    """The program with the local profile's trust file, its sockets moved to a directory of its own."""
    bound = binding_pcrs(ROLE, INSTANCE)
    module = f"{INSTANCE}-enc0123456789abcdef"
    registers = boot_pcrs(pcrs, pcr3=bound[3], pcr4=bound[4], debug=debug)
    nsm = SimulatedNsm(module_id=module, pcrs=registers)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coattest-")))
        stack.callback(NsmServer(directory / "nsm.sock", nsm).close)
        trust = (ROOT / "enclave" / "profiles" / "local.json").read_text()
        (directory / "trust.json").write_text(trust.replace("/run/coattest", str(directory)))
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(directory / "trust.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        line = process.stdout.readline()
        assert b"serving" in line, line
        yield LocalEnclave(directory, process)


@dataclass(frozen=True, slots=True)
class BuyerAccount:
    """What a buyer owns at the local services."""

    key_id: str
    key_arn: str
    bucket: str
    bidder: str
    access: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Cloud:
    """The parties' accounts at the running services: the parent's role, each buyer's key, bucket and
    bidder.
    """

    services: Services
    role: str
    buyers: Mapping[str, BuyerAccount]

    @classmethod
    def make(cls, services: Services, names: tuple[str, ...] = ("buyer-1", "buyer-2")) -> Cloud:
        """Create everything; nobody may decrypt with a key until ``allow``."""
        users = {name: make_bidder(services, name) for name in names}
        buckets = {name: f"bids-of-{name}" for name in names}
        objects = [f"arn:aws:s3:::{bucket}/*" for bucket in buckets.values()]
        iam = services.client("iam", "service")
        trust = _statement("sts:AssumeRole", principal=_admin(services, "service"))
        role = iam.create_role(RoleName="coattest-parent", AssumeRolePolicyDocument=_policy(trust))["Role"][
            "Arn"
        ]
        rights = _policy(_statement("kms:Decrypt", "*"), _statement("s3:GetObject", objects))
        iam.put_role_policy(RoleName="coattest-parent", PolicyName="carry", PolicyDocument=rights)
        readers = [role, *(arn for arn, _ in users.values())]
        buyers = {}
        for name in names:
            s3, kms = services.client("s3", name), services.client("kms", name)
            place = {"LocationConstraint": services.region}
            s3.create_bucket(Bucket=buckets[name], CreateBucketConfiguration=place)
            reading = _statement("s3:GetObject", [f"arn:aws:s3:::{buckets[name]}/*"], readers)
            once = put_once_statements([users[name][0]], f"arn:aws:s3:::{buckets[name]}/*")
            listing = _statement("s3:ListBucket", [f"arn:aws:s3:::{buckets[name]}"], readers)
            s3.put_bucket_policy(Bucket=buckets[name], Policy=_policy(reading, listing, *once))
            key = kms.create_key(Description="bids")["KeyMetadata"]
            buyers[name] = BuyerAccount(key["KeyId"], key["Arn"], buckets[name], *users[name])
        return cls(services, role, buyers)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.services.endpoint, self.services.ca_bundle)

    def allow(
        self, name: str, *decided: Decision, parent: bool = True, seal_key: bytes | None = None
    ) -> None:
        """Put a buyer's key policy for decisions, and for an auction's bids under its own ``seal_key`` (SPKI
        DER); without ``parent`` only the buyer's own admin may decrypt.
        """
        rules = None
        if seal_key is not None:
            named = {BUYER: name, SEAL_KEY: seal_key_digest(seal_key).hex()}
            rules = policy.ContextRules(named, (AUCTION,), IMAGE)
        buyer, admin = self.buyers[name], _admin(self.services, name)
        made = policy.generate_policy(
            decided,
            context=rules,
            account=self.services.accounts[name].account,
            parent_roles=[self.role],
            administrators=[admin],
            encrypters=[buyer.bidder],
            now=datetime.now(timezone.utc),
            simulator=True,
        )
        if not parent:
            made["Statement"] = [each for each in made["Statement"] if self.role not in json.dumps(each)]
        self.services.client("kms", name).put_key_policy(
            KeyId=buyer.key_id, PolicyName="default", Policy=policy.policy_text(made)
        )

    def as_buyer(self, name: str) -> Aws:
        """The buyer's encrypting principal."""
        return self._aws(*self.buyers[name].access)

    def as_service(self) -> Aws:
        """The service's admin, who assumes the parent's role."""
        account = self.services.accounts["service"]
        return self._aws(account.access_key, account.secret_key)

    def _aws(self, access_key: str, secret_key: str) -> Aws:
        import boto3  # not in the base install, which has the rest of this module

        session = boto3.Session(
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=self.services.region,
        )
        return Aws(session, self.endpoint)


def make_bidder(services: Services, name: str) -> tuple[str, tuple[str, str]]:
    """A buyer's user who encrypts and uploads: its ARN, and its access key with the secret."""
    iam = services.client("iam", name)
    arn = iam.create_user(UserName="bidder")["User"]["Arn"]
    rights = _policy(_statement(["kms:Encrypt", "s3:PutObject", "s3:GetObject", "s3:ListBucket"], "*"))
    iam.put_user_policy(UserName="bidder", PolicyName="bid", PolicyDocument=rights)
    key = iam.create_access_key(UserName="bidder")["AccessKey"]
    return arn, (key["AccessKeyId"], key["SecretAccessKey"])


def _admin(services: Services, name: str) -> str:
    return f"arn:aws:iam::{services.accounts[name].account}:user/admin"


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def _statement(action: Any, resource: Any = None, principal: Any = None) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action}
    if resource:
        statement["Resource"] = resource
    return statement | ({"Principal": {"AWS": principal}} if principal else {})
