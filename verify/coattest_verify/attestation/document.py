"""The fields of an attestation document, as a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

IMAGE_PCRS: Final = (0, 1, 2)
"""The registers of the image (whole, boot part, application part). Nitro Enclaves User Guide, "Where to get
PCRs".
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Document:
    """What an enclave's hypervisor attested.

    ``timestamp_ms`` is UTC in milliseconds; ``pcrs`` maps index to value (48 bytes each); ``certificate``
    and ``cabundle`` are DER, the bundle from the root to the issuer of ``certificate``; ``public_key``,
    ``user_data`` and ``nonce`` are what the enclave asked to have signed, None where it gave none. Source:
    AWS Nitro Enclaves Attestation Process, section 2.2.
    """

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def timestamp(self) -> datetime:
        """When the document was made, aware, in UTC."""
        return _EPOCH + timedelta(milliseconds=self.timestamp_ms)

    @property
    def debug(self) -> bool:
        """Whether the enclave runs in debug mode, or the document does not show that it does not.

        Debug mode zeroes PCR0, PCR1 and PCR2. Source: Nitro Enclaves User Guide, attestation.
        """
        return not all(any(self.pcrs.get(index, b"")) for index in IMAGE_PCRS)

    def to_json(self) -> dict[str, Any]:
        """Every field but the certificates; bytes in lower-case hex, the time in ISO 8601 as well."""
        return {
            "module_id": self.module_id,
            "timestamp_ms": self.timestamp_ms,
            "timestamp": self.timestamp.isoformat(timespec="milliseconds"),
            "debug": self.debug,
            "pcrs": {f"PCR{index}": value.hex() for index, value in sorted(self.pcrs.items())},
            "public_key": _hex(self.public_key),
            "user_data": _hex(self.user_data),
            "nonce": _hex(self.nonce),
        }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
