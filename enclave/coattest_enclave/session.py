"""One open request, from its frame to result and receipt.

The order matters: manifest, seals and digests are checked before KMS is asked; every data key is there
before a bid is unpacked; either all bids decrypt or there is no result. Only the result depends on amounts,
and what does is made while nothing else is served, up to the tick (``turns``). Each part is checked as soon
as it has arrived, and a wrong one ends the request.
"""

from __future__ import annotations

import socket

from cryptography.hazmat.primitives.asymmetric import rsa

from coattest_enclave import open_request
from coattest_enclave.decision import auction
from coattest_enclave.payload import entropy, transport
from coattest_enclave.payload.clock import Clock
from coattest_enclave.payload.kms import RSA_BITS, Kms
from coattest_enclave.payload.nsm import Nsm, own_image
from coattest_enclave.payload.trust import Trust
from coattest_enclave.payload.turns import Turns
from coattest_enclave.protocol import buffers, wire
from coattest_enclave.protocol.binding import Binding
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.receipt import receipt_user_data
from coattest_enclave.protocol.seal import Seal


def open_auction(
    stream: socket.socket, frame: wire.Frame, trust: Trust, proxies: list[str], turns: Turns
) -> None:
    """Answer the open request in ``frame``, whose data frames follow, with result and receipt.

    Raises EnclaveError when there is no result, OSError when the stream breaks.
    """
    request = open_request.parse_open(frame.body)
    nsm = Nsm(trust.nsm[0])

    def stage(text: str) -> None:
        wire.write_frame(stream, wire.Frame(frame.request, "progress", {"stage": text}))

    image = own_image(nsm.attest(user_data=None, nonce=None), trust.profile)
    with transport.in_time(stream, request.size):
        encoded = _receive_part(stream, frame.request, "manifest", request.manifest_size)
        manifest, seal = open_request.check_manifest(request, encoded, trust.partition, image)
        del encoded
        files = receive_bids(stream, frame.request, request, seal)
    bound = [Binding.of(manifest, buyer, image) for buyer in manifest.buyers]
    stage("manifest, seals and digests are checked")
    clock = Clock.read(nsm, set_system=not nsm.is_simulated)
    entropy.require_source(trust.entropy)
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    kms = Kms(trust, proxies, nsm, request.credentials, clock.now, key)
    keys: dict[str, bytearray] = {}
    bids: dict[str, bytearray] = {}
    try:
        for each in bound:
            keys[each.buyer] = open_request.data_key(kms.decrypt, each, files[each.buyer])
        quantum = auction.quantum(len(manifest.lots), len(manifest.buyers))
        with turns.alone(quantum, lambda: stage("deciding")) as tick:
            for each in bound:
                file = files.pop(each.buyer)
                bids[each.buyer] = open_request.unpack(each, file, keys[each.buyer])
                del file
            result = auction.result(manifest, seal.digest, bids)
            _wipe(keys, bids)
            user_data = receipt_user_data(result)
    finally:
        _wipe(keys, bids)
    # Not before the tick: the document has its own time, in milliseconds.
    receipt = nsm.attest(user_data=user_data, nonce=seal.digest)
    if tick.count > 1:
        stage(f"the decision took {tick.count} ticks; only one says nothing of its time")
    with transport.in_time(stream, len(result)):
        if len(result) > wire.CHUNK_MAX:
            # Too long for one frame: it goes ahead in data frames.
            for piece in wire.chunks(frame.request, "result", result):
                wire.write_frame(stream, piece)
            result = b""
        answer = {"result": result, "receipt": receipt}
        wire.write_frame(stream, wire.Frame(frame.request, "result", answer))


def _wipe(*secrets: dict[str, bytearray]) -> None:
    for each in secrets:
        while each:
            buffers.wipe(each.popitem()[1])


def receive_bids(
    stream: socket.socket, number: int, request: open_request.OpenRequest, seal: Seal
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
