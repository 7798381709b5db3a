"""What each operation of KMS does to a key, by the name that CloudTrail records.

Sources: Service Authorization Reference, "Actions, resources, and condition keys for AWS Key Management
Service"; KMS Developer Guide, "CloudTrail log entries" (service events such as RotateKey among
them), and "Monitoring KMS keys with Amazon EventBridge" for the names that begin with KMS. An operation
that is in no set is new: a success is a finding, since it could read plaintext.
"""

from __future__ import annotations

from typing import Final

from coattest_verify.keypolicy.iam.actions import (
    CHANGES_POWER,
    MAKES_CIPHERTEXT,
    NOT_ON_A_KEY,
    PUBLISHES,
    SIGNS,
    TAGS,
    TELLS,
)

DECRYPT: Final = "Decrypt"
"""The one operation that a decided policy allows on existing ciphertext."""

NEVER: Final = frozenset(
    {
        "CreateGrant",
        "DeriveSharedSecret",
        "GenerateMac",
        "ImportKeyMaterial",
        "ReEncrypt",
        "ReplicateKey",
        "Sign",
        "SynchronizeMultiRegionKey",
        "UpdatePrimaryRegion",
    }
)
"""Operations that give access to plaintext, hand out power or sign, and that no decided policy allows."""

_OF_KMS: Final = frozenset(
    {
        "DeleteExpiredKeyMaterial",
        "DeleteKey",
        "KMS CMK Deletion",
        "KMS CMK Rotation",
        "KMS Imported Key Material Expiration",
        "RotateKey",
    }
)
"""What KMS does to a key by itself, and its events of EventBridge."""

_TOLD_AND_CHANGED: Final = frozenset({"GetParametersForImport", "UpdateKeyDescription"})
"""Of those that are no power over a key: its description, and the first step of an import."""

CHANGES: Final = (CHANGES_POWER - NEVER) | TAGS | {"CreateKey"} | _OF_KMS | _TOLD_AND_CHANGED
"""Operations that change a key: policy, grants, state, material, rotation, aliases, tags, description."""

ALIASES: Final = frozenset({"CreateAlias", "DeleteAlias", "UpdateAlias"})
"""Those of ``CHANGES`` that can change a key without naming it: its alias goes to another key, or away."""

USES: Final = MAKES_CIPHERTEXT - {"ReEncryptTo"}
"""Operations that make new ciphertext: the encrypters'. CloudTrail records both halves as ReEncrypt."""

READS: Final = (TELLS | PUBLISHES | SIGNS) - NEVER - CHANGES
"""Operations that read a key's settings, or check a signature."""

KEYLESS: Final = NOT_ON_A_KEY - {"CreateKey"}
"""Operations that name no key, or need not. CreateKey is one of CHANGES: its answer names the key."""

KNOWN: Final = frozenset({DECRYPT}) | NEVER | CHANGES | USES | READS | KEYLESS
