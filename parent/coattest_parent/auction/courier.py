"""The courier: takes bid files from S3 into the enclave, and the result back out.

It sees only ciphertext and signatures, and holds one piece of a bid file at a time. The worst that it can do
to an auction is not to run it: the seal exposes every changed byte, and without all bytes there is no result.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from coattest.aws import FORBIDDEN, AwsFailure, aws_errors
from coattest.errors import FoundFalse
from coattest_enclave.protocol import cose, wire
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.auction.objects import put_once
from coattest_parent.link.aws import Aws, SessionCredentials, parse_s3_uri, region_of
from coattest_parent.link.channels import Address
from coattest_parent.link.enclave import BidUpload, EnclaveClient, EnclaveFailed, Progress
from coattest_parent.link.proxy import ConnectProxy, Target, kms_allow_list
from coattest_parent.link.telemetry import Telemetry
from coattest_verify.auction import messages
from coattest_verify.auction.place import bid_uri, bids_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AWS_KMS = "kms.{region}.amazonaws.com"
LOCAL_KMS = "kms.{region}.coattest.test"
"""KMS host names in the measured trust files of the two profiles; the enclave connects to no other host."""


_BID_NAME = re.compile(r"[0-9a-f]{96}\.cose")


BidSource = Callable[[messages.Buyer], BidUpload]
"""Gives a buyer's bid file; its content is read while it is consumed."""


def bid_in_s3(aws: Aws, buyer: messages.Buyer, manifest: bytes, digest: bytes) -> BidUpload:
    """The buyer's bid file with that digest, for the manifest with that digest: the object at its place as it
    is now; if it changes while it is read, reading fails.

    Raises FoundFalse (``missing-bid``) and AwsFailure: ``unreadable-bid`` where S3 says only that it may
    not be read, which it also says of a missing one to who may not list (S3 API Reference, "HeadObject").
    """
    uri = bid_uri(buyer, manifest, digest)
    bucket, key = parse_s3_uri(uri)
    client = aws.s3(region_of(buyer.kms))
    with aws_errors(uri):
        try:
            head = client.head_object(Bucket=bucket, Key=key)
        except client.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in ("404", "NoSuchKey", "NoSuchBucket"):
                raise FoundFalse(
                    f"no bid file of {buyer.name!r} with this digest",
                    where=uri,
                    hint="its maker uploads it with auction bid --upload",
                    code="missing-bid",
                ) from None
            if code in FORBIDDEN:
                raise AwsFailure(
                    f"the bid file of {buyer.name!r} is not there or may not be read: {code}",
                    where=uri,
                    hint="that buyer uploads the file that it sealed, or lets the parent's role read it; "
                    "a wrong clock or wrong credentials here are refused so too",
                    code="unreadable-bid",
                    service_code=code,
                ) from None
            raise
    size, etag = head.get("ContentLength"), head.get("ETag")
    if not isinstance(size, int) or size < 0 or not etag:
        raise AwsFailure("S3's answer has no length or ETag", where=uri, code="bad-answer")
    return BidUpload(buyer.name, size, _object(client, bucket, key, etag, size))


def _object(client: S3Client, bucket: str, key: str, etag: str, size: int) -> Iterator[bytes]:
    """An object's content, which has no end after ``size`` bytes if S3 lied: then it is a failure."""
    with aws_errors(uri := f"s3://{bucket}/{key}"):
        body = client.get_object(Bucket=bucket, Key=key, IfMatch=etag)["Body"]
        try:
            while piece := body.read(wire.CHUNK_MAX):
                size -= len(piece)
                if size < 0:
                    raise AwsFailure("S3's answer is longer than it said", where=uri, code="bad-answer")
                yield piece
        finally:
            body.close()


def bid_digests(
    manifest: messages.Manifest, aws: Aws, chosen: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """SHA-384 of every buyer's bid file for ``manifest``: of the one in ``chosen``, or of the only one that
    is at its place. Each is fetched, and its content has that digest.

    Raises FoundFalse: ``missing-bid``; ``several-bids`` for a buyer who has uploaded more than one and is not
    in ``chosen``; ``wrong-object`` for a file that is not what its name says; ``too-large`` for one that is
    too large for a bid of this manifest: nobody should fetch it, and an enclave would need many times its
    size to parse it.
    """
    found = dict(chosen or {})
    for buyer in manifest.buyers:
        if buyer.name not in found:
            found[buyer.name] = _only_bid(manifest, buyer, aws)
    most = cose.ENCRYPT0_OVERHEAD + messages.AMOUNT_SIZE * len(manifest.lots)
    for buyer in manifest.buyers:
        part = bid_in_s3(aws, buyer, manifest.digest, found[buyer.name])
        uri = bid_uri(buyer, manifest.digest, found[buyer.name])
        if part.size > most:
            raise FoundFalse(
                f"too large for a bid file: over {most} bytes",
                where=uri,
                hint="make a manifest without that buyer",
                code="too-large",
            )
        digest = hashlib.sha384()
        for piece in part.content:
            digest.update(piece)
        if digest.digest() != found[buyer.name]:
            raise FoundFalse("its content is not what its name says", where=uri, code="wrong-object")
    return {buyer.name: found[buyer.name] for buyer in manifest.buyers}


def _only_bid(manifest: messages.Manifest, buyer: messages.Buyer, aws: Aws) -> bytes:
    """The digest in the name of the one bid file at the buyer's place."""
    prefix = bids_prefix(buyer, manifest.digest)
    bucket, key = parse_s3_uri(prefix)
    with aws_errors(prefix):
        listed = aws.s3(region_of(buyer.kms)).list_objects_v2(Bucket=bucket, Prefix=key)
    names = [str(item.get("Key", "")).removeprefix(key) for item in listed.get("Contents", ())]
    digests = [name.removesuffix(".cose") for name in names if _BID_NAME.fullmatch(name)]
    if not digests:
        raise FoundFalse(f"no bid file of {buyer.name!r}", where=prefix, code="missing-bid")
    if len(digests) > 1:
        raise FoundFalse(
            f"{buyer.name!r} has uploaded {len(digests)} bid files",
            where=prefix,
            hint=f"ask which one counts, and give --bid-digest {buyer.name}=SHA384",
            code="several-bids",
        )
    return bytes.fromhex(digests[0])


def upload_bid(aws: Aws, buyer: messages.Buyer, manifest: bytes, content: bytes) -> str:
    """Put a bid file at its place, for the manifest with that digest, and return the object's URI.

    Nothing is overwritten: the object's name has the file's digest, and it is put only where there is none.
    Raises FoundFalse (``wrong-object``) when something else is there, and AwsFailure.
    """
    uri = bid_uri(buyer, manifest, messages.bid_digest(content))
    put_once(
        aws.s3(region_of(buyer.kms)),
        uri,
        content,
        ContentType="application/cose; cose-type=cose-encrypt0",
        ServerSideEncryption="AES256",
    )
    return uri


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
    parts = [source(buyer) for buyer in manifest.buyers]
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
