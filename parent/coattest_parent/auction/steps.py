"""An auction's steps that need AWS or an enclave, as plain functions: what the commands and the demo call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from coattest.aws import aws_errors
from coattest.errors import CoattestError, FoundFalse, UsageError
from coattest_enclave.protocol import messages
from coattest_parent.auction.courier import S3Bids, manifest_allow_list, open_auction
from coattest_parent.link.aws import Aws, region_of
from coattest_parent.link.channels import is_local, parse_address, proxy_address_for
from coattest_parent.link.enclave import Progress
from coattest_parent.link.retry import Retry, expired
from coattest_parent.link.telemetry import Telemetry
from coattest_verify.auction.bids import Bids, buyer_of, make_bid_file
from coattest_verify.auction.journal import AlreadySealed, SealJournal
from coattest_verify.auction.outcomes import moment_text

NO_PROXY = "none"
"""Instead of a proxy's address: one runs already, as a service of its own."""


class TooLate(FoundFalse):
    """The auction's closing time has passed."""

    default_code = "closed"


class PastDeadline(FoundFalse):
    """The auction's publication deadline has passed; a receipt from after it does not verify."""

    default_code = "too-late"


class TooEarly(FoundFalse):
    """The auction's closing time is still to come; a receipt from before it does not verify."""

    default_code = "too-early"


def time_left(manifest: messages.Manifest, now: datetime) -> float:
    """Seconds until the publication deadline; raises PastDeadline after it.

    A receipt's time has to lie before it (docs/protocol.md, "Manifest"), so what is opened later is a result
    that nobody believes.
    """
    left = manifest.publish_by - now.timestamp()
    if left < 0:
        raise PastDeadline(
            f"the publication deadline was {moment_text(manifest.publish_by)}",
            hint="a receipt from after it does not verify; make a new manifest",
        )
    return left


def make_bid(
    manifest: messages.Manifest,
    name: str,
    bids: Bids,
    aws: Aws,
    *,
    journal: SealJournal,
    when: datetime,
) -> bytes:
    """a buyer's encrypted bid file, its data key made by KMS; nothing is uploaded.

    Raises TooLate after the closing time, AlreadySealed when the manifest was sealed here, and KMS's
    failures.
    """
    buyer = buyer_of(manifest, name)
    if when.timestamp() >= manifest.closes:
        raise TooLate(
            f"bids closed at {moment_text(manifest.closes)}", hint="a late bid needs a new manifest"
        )
    if journal.sealed(manifest.digest) is not None:
        raise AlreadySealed("you have sealed this manifest", hint="a changed bid needs a new manifest")
    with aws_errors(buyer.kms):
        return make_bid_file(manifest, name, bids, aws.kms(region_of(buyer.kms)))


def open_sealed(
    manifest: messages.Manifest,
    seals: list[bytes],
    *,
    enclave: str,
    proxy: str | None,
    aws: Aws,
    role_arn: str | None = None,
    progress: Progress | None = None,
    retry: Retry | None = None,
    telemetry: Telemetry | None = None,
) -> messages.ResultFile:
    """Open an auction in the enclave at an address string; see ``courier.open_auction`` for what it raises.

    ``proxy`` None means where that enclave looks for it, NO_PROXY that one runs already. With ``role_arn``
    the role is assumed first. With ``retry``, what may pass is tried again from the start, with new
    credentials where the old ones' time is over; without, there is one attempt.
    """
    address = parse_address(enclave)
    listen = None if proxy == NO_PROXY else parse_address(proxy) if proxy else proxy_address_for(address)
    if aws.endpoint.url and not is_local(address):
        raise UsageError(
            "a local endpoint goes with an enclave on this machine only",
            where=enclave,
            code="local-not-loopback",
        )
    sessions = Sessions(aws, role_arn, region_of(manifest.buyers[0].kms), telemetry or Telemetry())

    def attempt() -> messages.ResultFile:
        with sessions.one() as session:
            return open_auction(
                manifest,
                seals,
                enclave=address,
                proxy=listen,
                allow=manifest_allow_list(manifest, aws.endpoint.target),
                source=S3Bids(session),
                credentials=session.credentials(),
                progress=progress,
                telemetry=telemetry,
            )

    return (retry or Retry()).call(attempt)


@dataclass(slots=True)
class Sessions:
    """A session for each attempt: the last one, or a new one after it was said to have expired."""

    aws: Aws
    role_arn: str | None
    region: str
    telemetry: Telemetry
    _last: Aws | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[Aws]:
        """The session to use within the block; raises AwsFailure when the role cannot be assumed."""
        try:
            if self._last is None:
                self._last = self.aws.assume(self.role_arn, self.region) if self.role_arn else self.aws
            yield self._last
        except CoattestError as error:
            if expired(error):
                self._last = None
                self.aws = self.aws.renewed()
                self.telemetry.event("credentials-refreshed", code=error.code)
                self.telemetry.metrics.add("coattest_credentials_refreshed_total")
            raise
