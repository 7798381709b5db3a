"""No key is made before the kernel's random numbers are known to come from the NSM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coattest_enclave.protocol.errors import EnclaveError

RNG_CURRENT = Path("/sys/class/misc/hw_random/rng_current")
"""Which hardware source feeds the kernel (Linux, Documentation/admin-guide/hw_random.rst)."""


def require_source(allowed: Sequence[str], rng_current: Path = RNG_CURRENT) -> None:
    """Raise EnclaveError unless the kernel's source is in ``allowed``, where ``host`` means any source."""
    if "host" in allowed:
        return
    try:
        source = rng_current.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise EnclaveError("cannot read which random source the kernel uses") from error
    if source not in allowed:
        raise EnclaveError("the kernel's random source is not the NSM")
