"""The steps of an open request, without its sockets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coattest_enclave.payload.sigv4 import Credentials
from coattest_enclave.protocol import cose
from coattest_enclave.protocol.binding import Binding
from coattest_enclave.protocol.canonical import SIZE_MAX
from coattest_enclave.protocol.errors import Code, EnclaveError, MessageError
from coattest_enclave.protocol.fields import BUYERS_MAX
from coattest_enclave.protocol.key_arn import parse_key_arn
from coattest_enclave.protocol.manifest import Manifest
from coattest_enclave.protocol.seal import Seal, bid_digest, check_seals

UPLOAD_MAX = 256 * 1024 * 1024
"""Bytes of manifest and bids in one request: 1,000,000 lots and 10 buyers are about 100 MB."""

CREDENTIAL_MAX = 8192
"""Characters of a credential; session tokens have no documented limit, and are up to about 2000 today."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What an open frame says: sizes of manifest and bids (in bytes), seals, credentials."""

    manifest_size: int
    bids: tuple[tuple[str, int], ...]
    seals: tuple[bytes, ...]
    credentials: Credentials

    @property
    def size(self) -> int:
        """Bytes of the upload."""
        return self.manifest_size + sum(size for _, size in self.bids)


def parse_open(body: dict[str, Any]) -> OpenRequest:
    """The request in the body of an open frame; raises MessageError, also for sizes over a limit."""
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
    if min(sizes) < 0 or len(pairs) > BUYERS_MAX:
        raise MessageError(f"a size is negative, or there are over {BUYERS_MAX} bids")
    if size > SIZE_MAX or sum(sizes) > UPLOAD_MAX:
        raise MessageError(f"manifest over {SIZE_MAX} bytes, or with the bids over {UPLOAD_MAX}", "too-large")
    if not all(isinstance(seal, bytes) for seal in seals):
        raise MessageError("a seal is not a byte string")
    # Printable ASCII only, because these go into HTTP headers.
    if not all(
        len(text) <= CREDENTIAL_MAX and text.isascii() and text.isprintable()
        for text in (access, secret, token)
    ):
        raise MessageError("a credential is not printable ASCII")
    return OpenRequest(size, tuple(pairs), tuple(seals), Credentials(access, secret, token))


def check_manifest(
    request: OpenRequest, encoded: bytes, partition: str, image: bytes
) -> tuple[Manifest, Seal]:
    """The manifest in ``encoded`` and the seal that its buyers signed, over the announced bids and for
    ``image``: PCR0 of this enclave, from its own NSM.

    Raises EnclaveError: ``bad-manifest``, ``bad-seal``, ``wrong-image`` or ``bad-bid-digest``.
    """
    with _failing("bad-manifest"):
        manifest = Manifest.decode(encoded)
    if any(parse_key_arn(buyer.kms).partition != partition for buyer in manifest.buyers):
        raise EnclaveError("a key is in a partition that this image does not trust", "bad-manifest")
    with _failing("bad-seal"):
        seal = check_seals(manifest, request.seals)
    if seal.image != image:
        raise EnclaveError("the buyers sealed for a different image", "wrong-image")
    if [name for name, _ in request.bids] != [name for name, _ in seal.bids]:
        raise EnclaveError("the announced bids are not the sealed ones", "bad-bid-digest")
    return manifest, seal


def check_bid(bid_file: bytes, digest: bytes) -> None:
    """Raise EnclaveError unless the file is the one that was sealed under this digest."""
    if bid_digest(bid_file) != digest:
        raise EnclaveError("a bid file is not the sealed one", "bad-bid-digest")


def data_key(
    ask: Callable[[bytes, str, Mapping[str, str]], bytearray], bound: Binding, bid_file: bytes
) -> bytearray:
    """The data key of a buyer's bid file, in a buffer to overwrite. ``ask`` is KMS's Decrypt.

    In ``bound`` are the seal key that verified this buyer's seal, and PCR0 of this enclave from its own NSM:
    the bid opens under nothing else. Raises EnclaveError: ``bad-bid`` when the file is not a bid file, else
    what ``ask`` raised. Then there is no result: withholding a key must not count as not bidding.
    """
    with _failing("bad-bid", f"{bound.buyer}: "):
        message = cose.parse_encrypt0(bid_file)
    try:
        return ask(message.wrapped_key, bound.kms, bound.context)
    except EnclaveError as error:
        raise EnclaveError(f"{bound.buyer}: {error.detail}", error.code) from None


def unpack(bound: Binding, bid_file: bytes, key: bytearray) -> bytearray:
    """A buyer's plaintext, in a buffer to overwrite. ``auction`` says what counts as a bid; nobody outside
    can see whether it does. Raises EnclaveError, ``bad-bid`` when the file does not authenticate.
    """
    with _failing("bad-bid", f"{bound.buyer}: "):
        return cose.decrypt0(bid_file, key, external_aad=bound.aad)


@contextlib.contextmanager
def _failing(code: Code, prefix: str = "") -> Iterator[None]:
    """Turn a MessageError into an EnclaveError with the code that it means here."""
    try:
        yield
    except MessageError as error:
        raise EnclaveError(prefix + error.detail, code) from None
