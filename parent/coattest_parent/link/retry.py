"""Retries: which failures may pass by themselves, how long to wait, and when to give up.

The wait is exponential with full jitter: a random time between zero and the bound, which doubles up to a
cap (AWS Architecture Blog, "Exponential Backoff And Jitter"; AWS SDKs and Tools Reference Guide, "Retry
behavior"). Trying an opening again is safe: one seal can only give one result.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from coattest.aws import AwsFailure
from coattest.errors import CoattestError, EnvironmentFailure
from coattest_parent.link.channels import ChannelFailure
from coattest_parent.link.enclave import EnclaveFailed, EnclaveRefused

T = TypeVar("T")

FOR_SECONDS = 120.0
"""Seconds that the commands try again unless told otherwise; an enclave restarts in under half of that."""

TRANSIENT = frozenset(
    {
        "500",
        "502",
        "503",
        "504",
        "ConditionalRequestConflict",
        "InternalError",
        "InternalFailure",
        "KMSInternalException",
        "PreconditionFailed",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "unreachable",
    }
)
"""AWS error codes that pass: throttling, the service's own faults, an object that changed while it was read
(AWS SDKs Reference Guide, "Retry behavior"; Amazon S3 API Reference, "Error responses").
"""

EXPIRED = frozenset({"400", "ExpiredToken", "ExpiredTokenException", "RequestExpired"})
"""Error codes of expired credentials: new ones may help (S3, STS and KMS name it differently; the answer to a
HEAD has no body, only its status).
"""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to try again, and the bounds of the waits, in seconds. ``seconds`` 0 is one attempt."""

    seconds: float = 0.0
    base: float = 0.5
    cap: float = 20.0

    def within(self, seconds: float) -> Backoff:
        """The same, for at most ``seconds``."""
        return replace(self, seconds=min(self.seconds, seconds))

    def bound(self, attempt: int) -> float:
        """The longest wait after attempt number ``attempt`` (1 is the first)."""
        return float(min(self.cap, self.base * 2.0 ** min(attempt - 1, 32)))


@dataclass(frozen=True, slots=True)
class Retry:
    """A back-off with its clock and randomness. ``told`` is called for each failure that leads to another
    attempt: with the attempt's number, the failure, and the wait in seconds.
    """

    backoff: Backoff = field(default_factory=Backoff)
    told: Callable[[int, CoattestError, float], None] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    dice: Callable[[float, float], float] = random.uniform

    def call(self, action: Callable[[], T]) -> T:
        """What ``action`` returns; raises its last failure when it cannot pass, or the time is up."""
        started = self.clock()
        attempt = 1
        while True:
            try:
                return action()
            except CoattestError as error:
                left = started + self.backoff.seconds - self.clock()
                wait = self.dice(0.0, self.backoff.bound(attempt))
                if wait >= left or not may_pass(error):
                    raise
                if self.told:
                    self.told(attempt, error, wait)
                self.sleep(wait)
                attempt += 1


def expired(error: CoattestError) -> bool:
    """Whether a failure means that the credentials expired: by the code of S3 or STS, or KMS's, which the
    enclave repeats.
    """
    if isinstance(error, EnclaveRefused):
        return error.code == "kms-denied" and any(error.what.endswith(f" {code}") for code in EXPIRED)
    return isinstance(error, AwsFailure) and error.service_code in EXPIRED


def may_pass(error: CoattestError) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, EnclaveFailed | ChannelFailure) or expired(error):
        return True
    if isinstance(error, AwsFailure):
        return error.code in TRANSIENT or error.service_code in TRANSIENT
    return isinstance(error, EnvironmentFailure) and error.code == "size-changed"
