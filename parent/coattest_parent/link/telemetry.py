"""Events as JSON lines, and metrics in Prometheus' text format: all that the parent reports of its work.

An event has a name from EVENTS and fields from FIELDS, and nothing else: there is no way to log a bid, a key
or a credential. ``text`` is for what libraries say, masked (``libraries``), and for the error that ends a
service. The values of a metric's label come from a closed list.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from coattest.errors import CoattestError
from coattest.shell import utc_now

EVENTS = frozenset(
    {
        "accept-failed",
        "clock-differs",
        "credentials-refreshed",
        "enclave-down",
        "enclave-up",
        "job-failed",
        "job-found",
        "library-message",
        "open-failed",
        "open-finished",
        "open-resumed",
        "open-retry",
        "open-started",
        "proxy-started",
        "proxy-stopped",
        "published",
        "published-before",
        "service-failed",
        "service-started",
        "service-stopped",
        "spool-seen",
        "spool-unread",
    }
)
"""Every event; docs/operations.md says what each means."""

FIELDS = frozenset(
    {
        "address",
        "age",
        "attempt",
        "auction",
        "buyers",
        "bytes",
        "code",
        "exit",
        "lots",
        "job",
        "jobs",
        "level",
        "request",
        "result",
        "seconds",
        "service_code",
        "source",
        "text",
        "tunnels",
        "wait",
    }
)
"""Every field of an event besides ``time`` and ``event``. ``auction`` and ``result`` are SHA-384 in hex."""


def codes_of(failure: CoattestError) -> dict[str, str]:
    """The fields of an event that say what failed: ``code``, ``service_code`` where AWS gave one, and the
    ``address`` of a bid file.
    """
    service = {"service_code": failure.service_code} if failure.service_code else {}
    place = {"address": failure.where} if failure.code in BID_CODES and failure.where else {}
    return {"code": failure.code, **service, **place}


BID_CODES = frozenset({"missing-bid", "unreadable-bid"})
"""Failures for which one buyer has to do something: their events say where its bid file has to be."""


TEXT_MAX = 200
"""Characters of a field; some come from outside."""

ADDRESS_MAX = 1100
"""Characters of an address: ``s3://``, a bucket's 63 and a key's 1,024 (Amazon S3 User Guide)."""

COUNTERS = {
    "coattest_opens_total": "Openings by how they ended.",
    "coattest_open_retries_total": "Attempts at an opening that failed and were followed by another.",
    "coattest_open_seconds_total": "Seconds spent in openings that ended in a result.",
    "coattest_sent_bytes_total": "Bytes of manifests and bid files sent to the enclave.",
    "coattest_credentials_refreshed_total": "Times that new credentials were fetched for an opening.",
    "coattest_published_total": "Results that are at their place in S3.",
    "coattest_proxy_tunnels_total": "Tunnels to KMS that were opened.",
    "coattest_proxy_refused_total": "Requests for a tunnel to a host that is not allowed.",
}
GAUGES = {
    "coattest_enclave_up": "Whether the enclave answered when it was last asked.",
    "coattest_proxy_tunnels_open": "Tunnels to KMS that are open.",
    "coattest_jobs_waiting": "Auctions in the spool that are not opened yet.",
    "coattest_jobs_oldest_seconds": "How long ago the first of them closed; 0 if none has.",
    "coattest_jobs_failed": "Auctions in the spool that need somebody to look at them.",
}
OUTCOMES = ("result", "resumed", "failed")
"""Values of the one label there is, ``outcome`` of coattest_opens_total."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus documentation, "Exposition formats", text-based format."""


class Metrics:
    """Numbers that several threads change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = dict.fromkeys((*COUNTERS, *GAUGES), 0.0)
        self._opens: dict[str, int] = dict.fromkeys(OUTCOMES, 0)

    def add(self, name: str, amount: float = 1.0) -> None:
        """Add to a counter or gauge; raises KeyError for an unknown name."""
        with self._lock:
            self._values[name] += amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge, or a counter that is counted elsewhere; raises KeyError for an unknown name."""
        with self._lock:
            if name not in self._values:
                raise KeyError(name)
            self._values[name] = value

    def opened(self, outcome: str) -> None:
        """Count an opening that ended; ``outcome`` is one of OUTCOMES."""
        with self._lock:
            self._opens[outcome] += 1

    def render(self) -> str:
        """All metrics in Prometheus' text format."""
        with self._lock:
            values, opens = dict(self._values), dict(self._opens)
        lines = []
        for kind, described in (("counter", COUNTERS), ("gauge", GAUGES)):
            for name, words in described.items():
                lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
                if name == "coattest_opens_total":
                    lines += [f'{name}{{outcome="{outcome}"}} {count}' for outcome, count in opens.items()]
                else:
                    lines.append(f"{name} {values[name]:.10g}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Events to ``sink``, a file descriptor (None: nowhere), and the metrics beside them."""

    sink: int | None = None
    metrics: Metrics = field(default_factory=Metrics)
    now: Callable[[], datetime] = utc_now
    clock: Callable[[], float] = time.monotonic
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def event(self, name: str, **fields: str | int | float) -> None:
        """Write one line; raises KeyError for an event or field that is not in the lists.

        A sink that cannot be written loses the line: a log that is full does not stop an auction.
        """
        unknown = {*fields} - FIELDS
        if name not in EVENTS or unknown:
            raise KeyError(f"{name} {sorted(unknown)}")
        if self.sink is None:
            return
        line = {"time": self.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"), "event": name}
        cut = {
            key: value[: ADDRESS_MAX if key == "address" else TEXT_MAX] if isinstance(value, str) else value
            for key, value in fields.items()
        }
        text = json.dumps({**line, **cut})
        # One write per line and no buffer: what a full disk refused does not come up again at the end. The
        # lock may be held by this very thread: the garbage collector can make a library speak in here.
        with self._lock, contextlib.suppress(OSError):
            os.write(self.sink, f"{text}\n".encode())
