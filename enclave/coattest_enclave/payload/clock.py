"""Time inside the enclave: its own NSM document's timestamp plus a monotonic clock, never the parent's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from coattest_enclave.payload.nsm import Nsm, document_time
from coattest_enclave.protocol.errors import EnclaveError

EARLIEST_MS = 1_735_689_600_000
"""2025-01-01, in Unix milliseconds: no image of this program is older."""

LATEST_MS = 4_102_444_800_000
"""2100-01-01, in Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock that was at ``anchor_ms`` (Unix milliseconds) when the monotonic clock was at ``anchor``."""

    anchor_ms: int
    anchor: float

    @classmethod
    def read(cls, nsm: Nsm, *, set_system: bool) -> Clock:
        """A clock from a document made now; raises EnclaveError.

        With ``set_system`` the kernel's clock is set too: OpenSSL checks certificate dates against it.
        """
        document = nsm.attest(user_data=None, nonce=None)
        clock = cls(document_time(document), time.monotonic())
        if not EARLIEST_MS <= clock.anchor_ms <= LATEST_MS:
            raise EnclaveError("the NSM's time is not between 2025 and 2100", "clock")
        if set_system:
            try:
                time.clock_settime(time.CLOCK_REALTIME, clock.anchor_ms / 1000)
            except OSError:
                raise EnclaveError("the system's clock cannot be set", "clock") from None
        return clock

    def now(self) -> datetime:
        """The time, UTC."""
        elapsed = timedelta(milliseconds=self.anchor_ms, seconds=time.monotonic() - self.anchor)
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + elapsed
