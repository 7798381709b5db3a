"""The courier: takes bid files from S3 into the enclave, and the result back out.

It sees only ciphertext and signatures, and holds one piece of a bid file at a time. The worst that it can do
to an auction is not to run it: the seal exposes every changed byte, and without all bytes there is no result.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import FoundFalse
from coattest_enclave.protocol import cose, messages, wire
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.link.aws import Aws, SessionCredentials, parse_s3_uri, region_of
from coattest_parent.link.channels import Address
from coattest_parent.link.enclave import BidUpload, EnclaveClient, EnclaveFailed, Progress
from coattest_parent.link.proxy import ConnectProxy, Target, kms_allow_list
from coattest_parent.link.telemetry import Telemetry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AWS_KMS = "kms.{region}.amazonaws.com"
LOCAL_KMS = "kms.{region}.coattest.test"
"""KMS host names in the measured trust files of the two profiles; the enclave connects to no other host."""


class BidSource(Protocol):
    """A source of bid files."""

    def part(self, buyer: messages.Buyer) -> BidUpload:
        """Size and content of a buyer's bid file; the content is read while it is consumed."""
        ...


@dataclass(frozen=True, slots=True)
class S3Bids:
    """Bid files at their buyers' URIs in S3."""

    aws: Aws

    def part(self, buyer: messages.Buyer) -> BidUpload:
        """The object at the buyer's URI as it is now; if it changes while it is read, reading fails.

        Raises FoundFalse (``missing-bid``) and AwsFailure.
        """
        bucket, key = parse_s3_uri(buyer.bids)
        client = self.aws.s3(region_of(buyer.kms))
        with aws_errors(buyer.bids):
            try:
                head = client.head_object(Bucket=bucket, Key=key)
            except client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NoSuchBucket"):
                    raise FoundFalse(
                        f"no bid file of {buyer.name!r}", where=buyer.bids, code="missing-bid"
                    ) from None
                raise
        size, etag = head.get("ContentLength"), head.get("ETag")
        if not isinstance(size, int) or size < 0 or not etag:
            raise AwsFailure("S3's answer has no length or ETag", where=buyer.bids, code="bad-answer")
        return BidUpload(buyer.name, size, _object(client, bucket, key, etag))


def _object(client: S3Client, bucket: str, key: str, etag: str) -> Iterator[bytes]:
    with aws_errors(f"s3://{bucket}/{key}"):
        body = client.get_object(Bucket=bucket, Key=key, IfMatch=etag)["Body"]
        try:
            while piece := body.read(wire.CHUNK_MAX):
                yield piece
        finally:
            body.close()


def bid_digests(manifest: messages.Manifest, source: BidSource) -> dict[str, bytes]:
    """SHA-384 of every buyer's bid file as ``source`` has it now.

    Raises FoundFalse for a file that is too large for a bid of this manifest: nobody should fetch it, and an
    enclave would need many times its size to parse it.
    """
    most = cose.ENCRYPT0_OVERHEAD + messages.AMOUNT_SIZE * len(manifest.lots)
    digests = {}
    for buyer in manifest.buyers:
        part = source.part(buyer)
        if part.size > most:
            raise FoundFalse(
                f"too large for a bid file: over {most} bytes",
                where=buyer.bids,
                hint="make a manifest without that buyer",
                code="too-large",
            )
        digest = hashlib.sha384()
        for piece in part.content:
            digest.update(piece)
        digests[buyer.name] = digest.digest()
    return digests


def upload_bid(aws: Aws, buyer: messages.Buyer, content: bytes) -> None:
    """Put a bid file at the buyer's URI, under S3's own encryption and a checksum that S3 checks."""
    bucket, key = parse_s3_uri(buyer.bids)
    with aws_errors(buyer.bids):
        aws.s3(region_of(buyer.kms)).put_object(
            Bucket=bucket,
            Key=key,
            Body=content,
            ContentType="application/cose; cose-type=cose-encrypt0",
            ServerSideEncryption="AES256",
            ChecksumAlgorithm="SHA256",
        )


def manifest_allow_list(manifest: messages.Manifest, target: Target | None) -> dict[str, Target]:
    """What the proxy lets an enclave reach for this auction: KMS in the regions of the buyers' keys.

    ``target`` is the local endpoint's host and port, or None for AWS.
    """
    regions = frozenset(region_of(buyer.kms) for buyer in manifest.buyers)
    return kms_allow_list(regions, LOCAL_KMS if target else AWS_KMS, target)


def open_in_enclave(
    manifest: messages.Manifest,
    seals: Sequence[bytes],
    *,
    enclave: Address,
    proxy: Address | None,
    allow: Mapping[str, Target],
    source: BidSource,
    credentials: SessionCredentials,
    progress: Progress | None = None,
    telemetry: Telemetry | None = None,
) -> messages.ResultFile:
    """Open the auction in the enclave; returns the file to publish, unverified (``verify receipt`` verifies).

    A proxy runs at ``proxy`` during this call; None means that one is running already. Raises EnclaveRefused,
    EnclaveFailed or another CoattestError; then there is no result, and calling again is safe: one seal can
    give only one result.
    """
    # Before connecting, because the enclave does not wait long for a slow bucket.
    parts = [source.part(buyer) for buyer in manifest.buyers]
    tunnels = ConnectProxy(proxy, allow, telemetry) if proxy else contextlib.nullcontext()
    with tunnels, EnclaveClient(enclave) as client:
        data, receipt = client.open(manifest.encode(), parts, seals, credentials, progress)
    try:
        result = messages.Result.decode(data)
        seal = messages.check_seals(manifest, seals).digest
        # The file must be readable later. This checks all but the result, which was decoded above.
        messages.ResultFile.decode(messages.ResultFile(b"-", receipt, tuple(seals)).encode())
    except MessageError as error:
        raise EnclaveFailed(f"the enclave's result does not parse: {error}") from error
    if result.manifest != manifest.digest:
        raise EnclaveFailed("the enclave's result is for a different manifest")
    if result.seal != seal:
        raise EnclaveFailed("the enclave's result is for a different seal")
    return messages.ResultFile(data, receipt, tuple(seals))
