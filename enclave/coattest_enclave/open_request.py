"""The steps of an open request without its sockets: what was announced, what was sealed, what was bid."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coattest_enclave.protocol import columns, cose, messages
from coattest_enclave.protocol.canonical import SIZE_MAX
from coattest_enclave.protocol.errors import (
    BadBid,
    BadBidDigest,
    BadManifest,
    BadSeal,
    EnclaveError,
    MessageError,
    TooLarge,
)
from coattest_enclave.sigv4 import Credentials

UPLOAD_MAX = 256 * 1024 * 1024
"""Bytes of manifest and bids in one request: 1,000,000 lots by 10 buyers are about 100 MB."""

CREDENTIAL_MAX = 8192
"""Characters of a credential; session tokens have no documented limit, seen are up to about 2000."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What an open frame says: sizes of manifest and bids (in bytes), seals, credentials."""

    manifest_size: int
    bids: tuple[tuple[str, int], ...]
    seals: tuple[bytes, ...]
    credentials: Credentials


def parse_open(body: dict[str, Any]) -> Opening:
    """What the body of an open frame says, within limits; raises MessageError, TooLarge."""
    match body:
        case {
            "manifest_size": int(size),
            "bids": list(bids),
            "seals": list(seals),
            "credentials": {
                "access_key": str(access),
                "secret_key": str(secret),
                "session_token": str(token),
                **more,
            },
            **rest,
        } if not rest and not more and type(size) is int:
            pass
        case _:
            raise MessageError("not the body of an open frame")
    pairs = []
    for entry in bids:
        match entry:
            case [str(name), int(length)] if type(length) is int:
                pairs.append((name, length))
            case _:
                raise MessageError("a bid is not [name, size]")
    sizes = [size, *(length for _, length in pairs)]
    if min(sizes) < 0 or len(pairs) > messages.BUYERS_MAX:
        raise MessageError("a size is negative, or too many bids")
    if size > SIZE_MAX or sum(sizes) > UPLOAD_MAX:
        raise TooLarge(f"manifest and bids are over {UPLOAD_MAX} bytes")
    if not all(isinstance(seal, bytes) for seal in seals):
        raise MessageError("a seal is not a byte string")
    # Printable ASCII only: these end up in HTTP headers.
    if not all(
        len(text) <= CREDENTIAL_MAX and text.isascii() and text.isprintable()
        for text in (access, secret, token)
    ):
        raise MessageError("a credential is not printable ASCII")
    return Opening(size, tuple(pairs), tuple(seals), Credentials(access, secret, token))


def check(opening: Opening, encoded: bytes, partition: str) -> tuple[messages.Manifest, messages.Seal]:
    """The manifest in ``encoded`` and the seal that its buyers signed, whose bids are the announced ones.

    Raises BadManifest, BadSeal or BadBidDigest.
    """
    with _failing(BadManifest):
        manifest = messages.Manifest.decode(encoded)
    if any(messages.parse_key_arn(buyer.kms).partition != partition for buyer in manifest.buyers):
        raise BadManifest("a key is in a partition that this image does not trust")
    with _failing(BadSeal):
        seal = messages.check_seals(manifest, opening.seals)
    if [name for name, _ in opening.bids] != [name for name, _ in seal.bids]:
        raise BadBidDigest("the bid files are not those that were sealed")
    return manifest, seal


def check_bid(bid_file: bytes, digest: bytes) -> None:
    """Raise BadBidDigest unless the file is the one that was sealed under this digest."""
    if messages.bid_digest(bid_file) != digest:
        raise BadBidDigest("the bid files are not those that were sealed")


def decrypt_bid(
    data_key_of: Callable[[bytes, str, Mapping[str, str]], bytearray],
    manifest: messages.Manifest,
    buyer: messages.Buyer,
    bid_file: bytes,
) -> array[int] | None:
    """A buyer's amounts; None when what decrypted is not a valid bid, which nobody outside can tell.

    ``data_key_of`` is KMS's Decrypt. Raises BadBid when the file is no bid file or does not authenticate,
    KmsDenied or KmsFailed when there is no key: then there is no result. Otherwise withholding a key would be
    the same as not bidding.
    """
    with _failing(BadBid, f"{buyer.name}: "):
        message = cose.parse_encrypt0(bid_file)
    context = messages.encryption_context(manifest.digest, buyer.name)
    try:
        data_key = data_key_of(message.wrapped_key, buyer.kms, context)
    except EnclaveError as error:
        raise type(error)(f"{buyer.name}: {error.detail}") from None
    plaintext = bytearray()
    try:
        with _failing(BadBid, f"{buyer.name}: "):
            aad = messages.bid_aad(manifest.digest, buyer.name, buyer.kms)
            plaintext = cose.decrypt0(message, data_key, external_aad=aad)
        return messages.unpack_bids(plaintext, len(manifest.lots))
    except MessageError:
        return None
    finally:
        columns.wipe(data_key)
        columns.wipe(plaintext)


@contextlib.contextmanager
def _failing(kind: type[EnclaveError], prefix: str = "") -> Iterator[None]:
    """Turn a MessageError into the failure that it means here."""
    try:
        yield
    except MessageError as error:
        raise kind(prefix + error.detail) from None
