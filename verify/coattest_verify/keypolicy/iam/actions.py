"""What KMS's actions do, and which condition keys a request can have.

The lists are AWS's: ``kms.json`` is its Service Authorization Reference ("Actions, resources, and condition
keys for AWS Key Management Service") with the global condition keys, as ``verify/kms-actions/renew.py``
pinned it. The classes are ours. An action that is in the list and in no class makes a proof unknown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources

from coattest_verify.keypolicy.iam import match

ATTESTATION = "kms:recipientattestation:"
"""The condition keys of an attestation document, in lower case."""

CONTEXT = "kms:encryptioncontext:"
CONTEXT_KEYS = "kms:encryptioncontextkeys"

READS_PLAINTEXT = frozenset({"Decrypt", "DeriveSharedSecret", "ReEncryptFrom"})
"""The plaintext of existing ciphertext, or what stands for it. ReEncryptFrom takes it to another key."""

MAKES_CIPHERTEXT = frozenset(
    {
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncryptTo",
    }
)
"""New ciphertext under the key; ReEncryptTo of a plaintext of the caller's choice."""

CHANGES_POWER = frozenset(
    {
        "CancelKeyDeletion",
        "CreateAlias",
        "CreateGrant",
        "DeleteAlias",
        "DeleteImportedKeyMaterial",
        "DisableKey",
        "DisableKeyRotation",
        "EnableKey",
        "EnableKeyRotation",
        "ImportKeyMaterial",
        "PutKeyPolicy",
        "ReplicateKey",
        "RetireGrant",
        "RevokeGrant",
        "RotateKeyOnDemand",
        "ScheduleKeyDeletion",
        "SynchronizeMultiRegionKey",
        "UpdateAlias",
        "UpdatePrimaryRegion",
    }
)
"""Who may use the key, where, under which name and with which material, and whether it stays."""

TAGS = frozenset({"TagResource", "UntagResource"})
"""Power over the key where a condition looks at the key's tags."""

SIGNS = frozenset({"GenerateMac", "Sign", "Verify", "VerifyMac"})
"""With signing and HMAC keys only, which neither encrypt nor decrypt (KMS Developer Guide, "KeyUsage")."""

PUBLISHES = frozenset({"GetPublicKey"})
"""With the public half of an asymmetric key, everybody encrypts outside KMS."""

TELLS = frozenset(
    {
        "DescribeKey",
        "GetKeyLastUsage",
        "GetKeyPolicy",
        "GetKeyRotationStatus",
        "GetParametersForImport",
        "ListGrants",
        "ListKeyPolicies",
        "ListKeyRotations",
        "ListResourceTags",
        "UpdateKeyDescription",
    }
)
"""About the key; none changes who gets what."""

NOT_ON_A_KEY = frozenset(
    {
        "ConnectCustomKeyStore",
        "CreateCustomKeyStore",
        "CreateKey",
        "DeleteCustomKeyStore",
        "DescribeCustomKeyStores",
        "DisconnectCustomKeyStore",
        "GenerateRandom",
        "ListAliases",
        "ListKeys",
        "ListRetirableGrants",
        "UpdateCustomKeyStore",
    }
)
"""No key policy is asked ("AWS KMS permissions": these have no key as a resource)."""

CLASSES = (
    READS_PLAINTEXT,
    MAKES_CIPHERTEXT,
    CHANGES_POWER,
    TAGS,
    SIGNS,
    PUBLISHES,
    TELLS,
    NOT_ON_A_KEY,
)

_MULTIVALUED = "ArrayOf"
_UNNUMBERED = re.compile(r"\$\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class KmsAction:
    """An action of KMS. ``attested``: its requests can carry an attestation document. ``conditions`` are its
    service's condition keys beside those of a document, in lower case; a name with a part of the caller's
    choice ends where that begins.
    """

    name: str
    attested: bool
    conditions: frozenset[str]


@dataclass(frozen=True, slots=True)
class KmsTable:
    """AWS's lists. ``date`` is the day of the pinned version; ``keys`` maps condition keys in lower case to
    their spelling and type.
    """

    version: str
    date: str
    actions: dict[str, KmsAction]
    keys: dict[str, tuple[str, str]]

    def unclassified(self) -> frozenset[str]:
        """The actions that have no class here: AWS added them, and nobody has looked at them yet."""
        return frozenset(self.actions) - frozenset().union(*CLASSES)

    def matching(self, pattern: str) -> frozenset[str]:
        """The names of the actions that an Action element's pattern covers."""
        return frozenset(name for name in self.actions if match.action(pattern, f"kms:{name}"))

    def find(self, key: str) -> tuple[str, str] | None:
        """Spelling and type of a condition key, or None where AWS's list has no such key."""
        name = match.ascii_lower(key)
        if name in self.keys and not name.endswith(("/", ":")):
            return self.keys[name]
        for stem, (spelling, kind) in self.keys.items():
            if stem.endswith(("/", ":")) and name.startswith(stem):
                return spelling + key[len(stem) :], kind
        return None

    def multivalued(self, key: str) -> bool:
        """Whether AWS says that requests can have several values of this key."""
        found = self.find(key)
        return found is not None and found[1].startswith(_MULTIVALUED)

    def spelled(self, key: str) -> str:
        """A condition key as AWS writes it; as it stands where AWS's list does not have it."""
        found = self.find(key)
        return found[0] if found else key

    def never_sent(self, key: str) -> bool:
        """Whether no request to KMS has this key: it is named like one of KMS's, and is none."""
        return match.ascii_lower(key).startswith("kms:") and self.find(key) is None

    def documented(self, key: str, action: str) -> bool:
        """Whether AWS documents that a request for this action of KMS can have this key."""
        name, found = match.ascii_lower(key), self.actions.get(action.partition(":")[2])
        if found is None or self.find(key) is None:
            return False
        if name.startswith(ATTESTATION):
            return found.attested
        if name.startswith(("kms:", "aws:requesttag/", "aws:tagkeys", "aws:resourcetag/")):
            return any(
                name.startswith(stem) if stem.endswith(("/", ":")) else name == stem
                for stem in found.conditions
            )
        return True


def _read() -> KmsTable:
    raw = json.loads(resources.files("coattest_verify.keypolicy.iam").joinpath("kms.json").read_text())
    return KmsTable(
        raw["version"],
        raw["date"],
        {
            name: KmsAction(name, item["attested"], frozenset(map(_stem, item["conditions"])))
            for name, item in raw["actions"].items()
        },
        {_stem(key): (_UNNUMBERED.sub("", key), kind) for key, kind in raw["keys"].items()},
    )


def _stem(key: str) -> str:
    return match.ascii_lower(_UNNUMBERED.sub("", key))


KMS = _read()
"""AWS's lists as pinned."""
