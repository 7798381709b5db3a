"""The arithmetic of PCRs: a register starts at zero and is extended with SHA-384.

Each register is extended once: ``PCR = SHA384(48 zero bytes || digest)``
(``aws-nitro-enclaves-image-format``, ``src/defs/eif_hasher.rs``).
"""

from __future__ import annotations

import hashlib

ZERO_REGISTER = bytes(48)
"""A register's value before it is extended."""
EMPTY_PCR2 = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)
"""PCR2 of every image without an application ramdisk (SHA-384 of nothing): pinning it pins nothing."""


def extend(digest: bytes) -> str:
    """A zero register extended once by ``digest``, in hex."""
    return hashlib.sha384(ZERO_REGISTER + digest).hexdigest()
