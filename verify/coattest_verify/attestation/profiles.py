"""The roots of trust for attestation documents, one per profile.

AWS's is the one of the Nitro Enclaves user guide ("Verifying the root of trust"). The simulator's has a
published private key: it attests nothing, and is accepted for the ``local`` profile only.
"""

from __future__ import annotations

from coattest.errors import UsageError
from coattest_verify.attestation import AWS_NITRO, Root

LOCAL_SIMULATOR = Root(
    "coattest simulator (published key)",
    bytes.fromhex("475d1bbaa7d9038121fa235840c8a846d6d2abb3ea4c3b57545933ec9681ad91"),
)

_BY_PROFILE = {"aws": AWS_NITRO, "local": LOCAL_SIMULATOR}

PROFILES = tuple(_BY_PROFILE)
"""The profiles that have a root."""

__all__ = ["AWS_NITRO", "LOCAL_SIMULATOR", "PROFILES", "root_for"]


def root_for(profile: str) -> Root:
    """The root that documents of a profile (``aws`` or ``local``) must chain to. Raises UsageError."""
    try:
        return _BY_PROFILE[profile]
    except KeyError:
        raise UsageError(
            f"no root of trust for profile {profile!r}",
            hint="the profiles are aws and local",
            code="unknown-profile",
        ) from None
