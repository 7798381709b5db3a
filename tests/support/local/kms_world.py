"""A world for tests of the local KMS: an enclave's NSM with an RSA key, a key with a policy, roles that may
call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import cbor2
from asn1crypto import cms
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from coattest_build.formats.measure import pcr3
from coattest_local.aws.services import Services
from coattest_local.host.nsm import SimulatedNsm, boot_pcrs

PCRS = {0: "a0" * 48, 1: "a1" * 48, 2: "a2" * 48}
OTHER = {0: "b0" * 48, 1: "b1" * 48, 2: "b2" * 48}
CONTEXT = {"coattest:auction": "5e" * 48, "coattest:buyer": "buyer-1"}
INSTANCE = "i-1234567890abcdef0"

PARENT = "arn:aws:iam::111122223333:role/parent"


@dataclass
class Enclave:
    """An enclave as KMS sees it: documents with an RSA public key, and the key that opens the answers."""

    pcrs: Mapping[int, str]
    debug: bool = False
    role: str = PARENT
    key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    def __post_init__(self) -> None:
        module = f"{INSTANCE}-enc0123456789abcdef"
        registers = boot_pcrs(
            {index: bytes.fromhex(value) for index, value in self.pcrs.items()},
            pcr3=bytes.fromhex(pcr3(self.role)),
            pcr4=b"\4" * 48,
            debug=self.debug,
        )
        self.nsm = SimulatedNsm(module_id=module, pcrs=registers)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def document(self, *, now: datetime | None = None, public_key: bytes | None = b"") -> bytes:
        """A fresh attestation document; ``public_key`` None leaves it out."""
        key = self.public_key if public_key == b"" else public_key
        request = {"Attestation": {"public_key": key, "user_data": None, "nonce": None}}
        answer = self.nsm.respond(cbor2.dumps(request), now=now or datetime.now(timezone.utc))
        document = cbor2.loads(answer)["Attestation"]["document"]
        assert isinstance(document, bytes)
        return document

    def recipient(self, **options: Any) -> dict[str, Any]:
        return {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": self.document(**options),
        }

    def open(self, envelope: bytes) -> bytes:
        """The plaintext of CiphertextForRecipient, read by asn1crypto and not by our own reader."""
        content = cms.ContentInfo.load(envelope)["content"]
        (info,) = content["recipient_infos"]
        content_key = self.key.decrypt(
            info.chosen["encrypted_key"].native,
            rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
        )
        encrypted = content["encrypted_content_info"]
        vector = encrypted["content_encryption_algorithm"]["parameters"].native
        decryptor = Cipher(algorithms.AES(content_key), modes.CBC(vector)).decryptor()
        padded = decryptor.update(encrypted["encrypted_content"].native) + decryptor.finalize()
        unpadder = padding.PKCS7(128).unpadder()
        return unpadder.update(padded) + unpadder.finalize()


def allow(principal: str, action: str | list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    """An Allow statement of a key policy."""
    return statement("Allow", principal, action, condition)


def deny(principal: str, action: str | list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    """A Deny statement of a key policy."""
    return statement("Deny", principal, action, condition)


def statement(
    effect: str, principal: str, action: str | list[str], condition: dict[str, Any] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Effect": effect,
        "Principal": {"AWS": principal},
        "Action": action,
        "Resource": "*",
    }
    return found | ({"Condition": condition} if condition else {})


def policy(*statements: dict[str, Any]) -> str:
    """A policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def administer(account: str, name: str = "admin") -> dict[str, Any]:
    """The statement that keeps a test's admin in."""
    return allow(
        f"arn:aws:iam::{account}:user/{name}",
        [
            "kms:DescribeKey",
            "kms:GetKeyPolicy",
            "kms:PutKeyPolicy",
            "kms:TagResource",
            "kms:DisableKey",
            "kms:EnableKey",
            "kms:ScheduleKeyDeletion",
            "kms:ListGrants",
            "kms:ListResourceTags",
        ],
    )


def attested(pcrs: Mapping[int, str]) -> dict[str, Any]:
    """The condition on the measurements."""
    return {
        "StringEqualsIgnoreCase": {
            "kms:RecipientAttestation:ImageSha384": pcrs[0],
            "kms:RecipientAttestation:PCR1": pcrs[1],
            "kms:RecipientAttestation:PCR2": pcrs[2],
        }
    }


def make_role(
    services: Services,
    account: str,
    name: str,
    *,
    trust: str | None = None,
    may: dict[str, Any] | None = None,
) -> str:
    """Create a role that the account's admin may assume, with one inline policy; returns its ARN."""
    iam = services.client("iam", account)
    number = services.accounts[account].account
    trusted = allow(trust or f"arn:aws:iam::{number}:root", "sts:AssumeRole")
    trusted.pop("Resource")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trusted))
    if may is not None:
        iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=policy(may))
    return f"arn:aws:iam::{number}:role/{name}"


def assume(services: Services, account: str, role: str) -> dict[str, str]:
    """A session's credentials."""
    answer = services.client("sts", account).assume_role(RoleArn=role, RoleSessionName=INSTANCE)
    credentials: dict[str, str] = answer["Credentials"]
    return credentials


def may(*actions: str, resource: str = "*") -> dict[str, Any]:
    """An Allow statement of an identity policy."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


def code_of(call: Any, **arguments: Any) -> str:
    """The error code that a call ends with; "none" when it succeeds."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "none"
