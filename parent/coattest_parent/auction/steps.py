"""The steps of an auction that need AWS or an enclave, as functions for the commands and the demo."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from coattest.aws import aws_errors
from coattest.errors import CoattestError, FoundFalse, UsageError
from coattest.findings import Finding
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.auction.courier import bid_in_s3, manifest_allow_list, open_in_enclave
from coattest_parent.link.aws import Aws, region_of
from coattest_parent.link.channels import is_local, parse_address, proxy_address_for
from coattest_parent.link.enclave import Progress
from coattest_parent.link.retry import Backoff, Retry, expired
from coattest_parent.link.telemetry import Telemetry, codes_of
from coattest_verify.auction import messages
from coattest_verify.auction.bids import Bids, make_bid_file
from coattest_verify.auction.certify import CertificateCheck, Own
from coattest_verify.auction.checks import Looked, Opening, look_at, refuse
from coattest_verify.auction.journal import AlreadySealed, SealJournal
from coattest_verify.auction.outcomes import moment_text

NO_PROXY = "none"
"""In place of a proxy's address: a proxy is running already, as its own service."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach an enclave and AWS, by address strings.

    ``proxy`` None means where that enclave looks for a proxy, NO_PROXY that one is running already. With
    ``role_arn`` that role does everything: it reads the bids, decrypts, and puts the result.
    """

    enclave: str
    proxy: str | None
    aws: Aws
    role_arn: str | None = None
    backoff: Backoff = field(default_factory=Backoff)


def time_left(manifest: messages.Manifest, now: datetime) -> float:
    """Seconds until the publication deadline; raises FoundFalse (``too-late``) after it.

    A receipt from after it does not verify (docs/protocol.md, "Manifest"), so opening is useless then.
    """
    left = manifest.publish_by - now.timestamp()
    if left < 0:
        raise FoundFalse(
            f"the publication deadline was {moment_text(manifest.publish_by)}",
            hint="a receipt from after it does not verify; make a new manifest",
            code="too-late",
        )
    return left


def look_before_bid(
    manifest: messages.Manifest,
    own: Own,
    *,
    check_certificate: CertificateCheck,
    journal: SealJournal,
    when: datetime,
    again: bool = False,
    known: Collection[str] | None = None,
) -> Looked:
    """Everything that ``auction seal`` would refuse too, before anything is encrypted; see ``look_at``.

    Raises FoundFalse with every finding (``closed`` at or after the closing time), AlreadySealed when the
    manifest was sealed here.
    """
    looked, findings = look_at(
        manifest, own, check_certificate=check_certificate, journal=journal, again=again, known=known
    )
    if when.timestamp() >= manifest.closes:
        detail = f"bids closed at {moment_text(manifest.closes)}; a late bid needs a new manifest"
        findings.append(Finding("closed", "manifest", detail))
    refuse(findings)
    if journal.sealed(manifest.digest) is not None:
        raise AlreadySealed("you have sealed this manifest", hint="a changed bid needs a new manifest")
    return looked


def make_bid(
    manifest: messages.Manifest,
    own: Own,
    opening: Opening,
    bids: Bids,
    aws: Aws,
    *,
    check_certificate: CertificateCheck,
    journal: SealJournal,
    when: datetime,
    again: bool = False,
    known: Collection[str] | None = None,
) -> bytes:
    """A buyer's encrypted bid file, under a data key that its KMS key wraps; nothing is uploaded. The journal
    remembers for which manifest it is.

    Nothing is encrypted unless ``look_before_bid`` finds nothing; raises what it raises, and KMS's failures.
    """
    look_before_bid(
        manifest,
        own,
        check_certificate=check_certificate,
        journal=journal,
        when=when,
        again=again,
        known=known,
    )
    with aws_errors(own.kms):
        content = make_bid_file(manifest, own, opening.image, bids, aws.kms(region_of(own.kms)))
    journal.record_bid(messages.bid_digest(content), manifest.digest)
    return content


def open_sealed(
    manifest: messages.Manifest,
    seals: list[bytes],
    way: Way,
    *,
    progress: Progress | None = None,
    retry: Retry | None = None,
    telemetry: Telemetry | None = None,
) -> messages.ResultFile:
    """Open an auction in the enclave; raises what ``open_in_enclave`` raises.

    With ``retry``, failures that may pass are tried again from the start, with new credentials if the old
    ones have expired; without it there is one attempt.
    """
    address, proxy = parse_address(way.enclave), way.proxy
    listen = None if proxy == NO_PROXY else parse_address(proxy) if proxy else proxy_address_for(address)
    if way.aws.endpoint.url and not is_local(address):
        raise UsageError(
            "a local endpoint needs an enclave on this machine",
            where=way.enclave,
            code="local-not-loopback",
        )
    try:
        # The seal picks: of all bid files at a buyer's place only the sealed one is read.
        sealed = dict(messages.check_seals(manifest, seals).bids)
    except MessageError as error:
        raise FoundFalse(
            f"seals: {error}", hint="one seal per buyer, all the same", code="bad-seal"
        ) from None
    sessions = Sessions(way.aws, way.role_arn, region_of(manifest.buyers[0].kms), telemetry or Telemetry())

    def attempt() -> messages.ResultFile:
        with sessions.one() as session:
            return open_in_enclave(
                manifest,
                seals,
                enclave=address,
                proxy=listen,
                allow=manifest_allow_list(manifest, way.aws.endpoint.target),
                source=lambda buyer: bid_in_s3(session, buyer, manifest.digest, sealed[buyer.name]),
                credentials=session.credentials(),
                progress=progress,
                telemetry=telemetry,
            )

    return (retry or Retry()).call(attempt)


@dataclass(slots=True)
class Sessions:
    """A session for each attempt: the last one, or a new one after its credentials have expired."""

    aws: Aws
    role_arn: str | None
    region: str
    telemetry: Telemetry
    _last: Aws | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[Aws]:
        """The session to use in the block; raises AwsFailure when the role cannot be assumed."""
        try:
            if self._last is None:
                self._last = self.aws.assume(self.role_arn, self.region) if self.role_arn else self.aws
            yield self._last
        except CoattestError as error:
            if expired(error):
                self._last = None
                self.aws = self.aws.renewed()
                self.telemetry.event("credentials-refreshed", **codes_of(error))
                self.telemetry.metrics.add("coattest_credentials_refreshed_total")
            raise
