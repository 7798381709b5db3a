"""Opens an auction from wherever an earlier call stopped: to a result at its place, and published if asked.

Each step leaves something durable or nothing: a file is linked into its place whole, an object is put, each
only where there is none. So the next call finishes what a killed one began,
and an auction that has a result is not opened again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest.shell import from_os_error
from coattest_parent.auction.publish import (
    ResultPlace,
    Sealed,
    check_opened,
    publish,
    store_result,
    stored_result,
)
from coattest_parent.auction.steps import Way, open_sealed, time_left
from coattest_parent.link.aws import region_of
from coattest_parent.link.channels import is_local, parse_address
from coattest_parent.link.enclave import Progress
from coattest_parent.link.retry import Retry
from coattest_parent.link.telemetry import Telemetry, codes_of
from coattest_verify.attestation import Root
from coattest_verify.attestation.profiles import root_for
from coattest_verify.auction import messages


@dataclass(frozen=True, slots=True)
class Finished:
    """A result file, and whether it was there before this call."""

    file: messages.ResultFile
    resumed: bool


Opener = Callable[..., messages.ResultFile]
Check = Callable[[Sealed, messages.ResultFile, Root, datetime], None]


def finish(
    sealed: Sealed,
    out: ResultPlace,
    way: Way,
    *,
    now: datetime,
    uri: str | None = None,
    telemetry: Telemetry | None = None,
    progress: Progress | None = None,
    opener: Opener = open_sealed,
    check: Check = check_opened,
) -> Finished:
    """Open ``sealed`` into ``out`` and an object under ``uri`` (``s3://bucket/prefix/``), as far as
    that is not done yet.

    Whoever wrote what is there, its receipt is verified before the result counts and before it is published.
    Raises CoattestError; file and object are then whole or absent. After the publication deadline nothing is
    opened (``too-late``), but a file from before it is still published. ``now`` is the time of the call
    (aware).
    """
    tell = telemetry or Telemetry()
    names = {"request": secrets.token_hex(8), "auction": sealed.manifest.digest.hex()}
    started = tell.clock()
    tell.event("open-started", **names, buyers=len(sealed.manifest.buyers), lots=len(sealed.manifest.lots))

    def again(attempt: int, error: CoattestError, wait: float) -> None:
        tell.metrics.add("coattest_open_retries_total")
        tell.event("open-retry", **names, attempt=attempt, **codes_of(error), wait=round(wait, 3))

    def sent(stage: str, size: int) -> None:
        tell.metrics.add("coattest_sent_bytes_total", size)
        if progress:
            progress(stage, size)

    try:
        file = stored_result(sealed, out)
        resumed = file is not None
        root = root_for("local" if is_local(parse_address(way.enclave)) else "aws")
        if file is not None:
            check(sealed, file, root, now)
        if file is None:
            left = time_left(sealed.manifest, now)
            opened = opener(
                sealed.manifest,
                list(sealed.seals),
                way,
                progress=sent,
                retry=Retry(way.backoff.within(left), again),
                telemetry=tell,
            )
            later = now + timedelta(seconds=tell.clock() - started)
            with _own_clock():
                check(sealed, opened, root, later)
            file = store_result(sealed, opened, out)
            if file is not opened:  # somebody else's was there first
                check(sealed, file, root, later)
        digest = messages.sha384(file.result).hex()
        seconds = round(tell.clock() - started, 3)
        tell.event("open-resumed" if resumed else "open-finished", **names, result=digest, seconds=seconds)
        published = _published(sealed, file, uri, way, Retry(way.backoff, again)) if uri else None
        if published is not None:
            tell.metrics.add("coattest_published_total")
            address, new = published
            tell.event("published" if new else "published-before", **names, address=address)
    except (CoattestError, OSError) as error:
        failure = from_os_error(error) if isinstance(error, OSError) else error
        tell.metrics.opened("failed")
        tell.event("open-failed", **names, **codes_of(failure), exit=failure.exit_code)
        raise failure from error
    tell.metrics.opened("resumed" if resumed else "result")
    tell.metrics.add("coattest_open_seconds_total", 0 if resumed else seconds)
    return Finished(file, resumed)


@contextlib.contextmanager
def _own_clock() -> Iterator[None]:
    """Within the block a receipt that was made just now is only of a wrong time: then this machine's clock is
    not the enclave's, and nothing is wrong with the auction.

    Raises EnvironmentFailure (``clock-differs``).
    """
    try:
        yield
    except FoundFalse as error:
        if not error.findings or {each.code for each in error.findings} - {"too-early", "from-the-future"}:
            raise
        raise EnvironmentFailure(
            f"this machine's clock is not the enclave's: {error.findings[0].detail}",
            hint="set the clock (chrony); the auction is opened again",
            code="clock-differs",
        ) from error


def _published(
    sealed: Sealed, file: messages.ResultFile, uri: str, way: Way, retry: Retry
) -> tuple[str, bool]:
    """Put the result, with the rights of the role if one is assumed."""
    region = region_of(sealed.manifest.buyers[0].kms)

    def attempt() -> tuple[str, bool]:
        aws = way.aws.renewed()
        return publish(sealed, file, uri, aws.assume(way.role_arn, region) if way.role_arn else aws, region)

    return retry.call(attempt)
