"""One open request, from its frame to result and receipt.

The order matters: manifest, seals and digests are checked before anything is decrypted; either all bids
decrypt or there is no result; only the result depends on amounts. Each part is checked as soon as it has
arrived, and a wrong one ends the request.
"""

from __future__ import annotations

import socket
from array import array

from cryptography.hazmat.primitives.asymmetric import rsa

from coattest_enclave import auction, entropy, open_request
from coattest_enclave.clock import Clock
from coattest_enclave.kms import RSA_BITS, Kms
from coattest_enclave.nsm import Nsm, own_image
from coattest_enclave.protocol import columns, messages, wire
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.trust import Trust


def open_auction(
    stream: socket.socket, frame: wire.Frame, trust: Trust, nsm: Nsm, proxies: list[str]
) -> tuple[bytes, bytes]:
    """The result's bytes and the receipt of the open request in ``frame``, whose data frames follow.

    Raises EnclaveError when there is no result, OSError when the stream breaks.
    """
    request = open_request.parse_open(frame.body)

    def stage(text: str) -> None:
        wire.write_frame(stream, wire.Frame(frame.request, "progress", {"stage": text}))

    encoded = _receive_part(stream, frame.request, "manifest", request.manifest_size)
    image = own_image(nsm.attest(user_data=None, nonce=None), trust.profile)
    manifest, seal = open_request.check_manifest(request, encoded, trust.partition, image)
    del encoded
    files = receive_bids(stream, frame.request, request, seal)
    stage("manifest, seals and digests are checked")
    clock = Clock.read(nsm, set_system=not nsm.is_simulated)
    entropy.require_source(trust.entropy)
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    kms = Kms(trust, proxies, nsm, request.credentials, clock.now, key)
    bids: dict[str, array[int] | None] = {}
    try:
        for buyer in manifest.buyers:
            stage(f"decrypting {buyer.name}")
            file = files.pop(buyer.name)
            bids[buyer.name] = open_request.decrypt_bid(kms.decrypt, manifest, buyer, file, image)
        stage("deciding")
        decided = auction.result(manifest, seal.digest, bids)
    finally:
        for amounts in bids.values():
            if amounts is not None:
                columns.wipe(amounts)
    bids.clear()
    result = decided.encode()
    receipt = nsm.attest(user_data=messages.receipt_user_data(result), nonce=seal.digest)
    return result, receipt


def receive_bids(
    stream: socket.socket, number: int, request: open_request.OpenRequest, seal: messages.Seal
) -> dict[str, bytes]:
    """The sealed bid file of every buyer; raises EnclaveError, OSError.

    Nothing is decrypted before this returns.
    """
    files = {}
    for (name, size), (_, digest) in zip(request.bids, seal.bids, strict=True):
        files[name] = _receive_part(stream, number, f"bid:{name}", size)
        open_request.check_bid(files[name], digest)
    return files


def _receive_part(stream: socket.socket, request: int, part: str, size: int) -> bytes:
    pieces, received = [], 0
    while True:
        frame = wire.read_frame(stream)
        if frame is None or frame.request != request or frame.type != "data":
            raise MessageError(f"expected a data frame of {part}")
        match frame.body:
            case {"part": str(name), "chunk": bytes(chunk), "last": bool(last), **rest} if (
                not rest and name == part
            ):
                received += len(chunk)
            case _:
                raise MessageError(f"expected a data frame of {part}")
        if len(chunk) > wire.CHUNK_MAX or received > size:
            raise MessageError("more data than announced", "too-large")
        if last != (received == size) or not (chunk or last):
            raise MessageError("data frames do not add up")
        pieces.append(chunk)
        if last:
            return b"".join(pieces)
