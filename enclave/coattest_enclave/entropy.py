"""No key is made before the kernel's random numbers are known to come from the NSM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coattest_enclave.protocol.errors import EnclaveError

RNG_CURRENT = Path("/sys/class/misc/hw_random/rng_current")
"""Which hardware source feeds the kernel (Linux, Documentation/admin-guide/hw_random.rst)."""


class NoEntropy(EnclaveError):
    """The kernel's random source is none that the trust file allows."""


def check(allowed: Sequence[str], rng_current: Path = RNG_CURRENT) -> None:
    """Raise NoEntropy unless the kernel's source is in ``allowed``; ``host`` accepts the software host's."""
    if "host" in allowed:
        return
    try:
        source = rng_current.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise NoEntropy("the kernel names no random source") from error
    if source not in allowed:
        raise NoEntropy("the kernel's random source is not the NSM")
