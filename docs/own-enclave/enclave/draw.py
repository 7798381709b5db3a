"""Draws one of the names it is sent; an attestation document says that this program drew it, and for whom.

A request is a nonce of 32 bytes, a length (u16, big-endian) and so many bytes of text, a name a line. The
answer is a length, a line of text, and a document whose nonce is the request's and whose user_data is the
line's SHA-384.
"""

import fcntl
import hashlib
import os
import socket
import struct
import threading
from array import array
from pathlib import Path

CONFIG = Path("/etc/draw.conf")  # the profile's file: where the NSM is, where to listen
NSM_IOCTL, RESPONSE_MAX = 0xC0200A00, 0x3000  # include/uapi/linux/nsm.h
DOCUMENT = b"\xa1kAttestation\xa1hdocumentY"  # CBOR: {"Attestation": {"document": bytes of a u16 length


def main() -> None:
    """Answer every connection, for ever."""
    with CONFIG.open() as file:
        nsm, (kind, place) = file.readline().strip(), file.readline().split()
    with socket.socket(socket.AF_VSOCK if kind == "vsock" else socket.AF_UNIX) as server:
        server.bind((socket.VMADDR_CID_ANY, int(place)) if kind == "vsock" else place)
        server.listen()
        while True:
            peer, _ = server.accept()
            # A thread for each: a peer that says nothing must not hold up the others.
            threading.Thread(target=answer, args=(peer, nsm), daemon=True).start()


def answer(peer: socket.socket, nsm: str) -> None:
    """One request of a peer, who may send anything or nothing."""
    with peer:
        peer.settimeout(10)
        try:
            nonce, text = exactly(peer, 32), exactly(peer, *struct.unpack(">H", exactly(peer, 2)))
            line = draw(text.decode())
            document = attest(nsm, hashlib.sha384(line).digest(), nonce)
            peer.sendall(struct.pack(">H", len(line)) + line + document)
        except (OSError, ValueError) as error:
            print(f"draw: {type(error).__name__}", flush=True)


def draw(text: str) -> bytes:
    """The line about one of the names in ``text``."""
    names = [name.strip() for name in text.splitlines() if name.strip()]
    if not names:
        raise ValueError("no names")
    chosen = int.from_bytes(os.urandom(16), "big") % len(names)
    digest = hashlib.sha384("\n".join(names).encode()).hexdigest()
    return f"{names[chosen]}, one of {len(names)} names with SHA-384 {digest}\n".encode()


def attest(nsm: str, user_data: bytes, nonce: bytes) -> bytes:
    """A document over 48 bytes and 32 bytes, from /dev/nsm or the software host's socket."""
    request = b"\xa1kAttestation\xa3iuser_dataX\x30" + user_data + b"enonceX\x20" + nonce + b"jpublic_key\xf6"
    response = from_device(nsm, request) if nsm.startswith("/dev/") else from_socket(nsm, request)
    if not response.startswith(DOCUMENT):
        raise ValueError("the NSM gave no document")
    start = len(DOCUMENT) + 2
    return response[start : start + int.from_bytes(response[start - 2 : start], "big")]


def from_device(path: str, request: bytes) -> bytes:
    """One request to the device: struct nsm_raw, two (address, length) pairs."""
    sent, got = array("B", request), array("B", bytes(RESPONSE_MAX))
    raw = bytearray(struct.pack("4Q", *sent.buffer_info(), *got.buffer_info()))
    with Path(path).open("r+b", buffering=0) as device:
        fcntl.ioctl(device, NSM_IOCTL, raw)
    return got.tobytes()[: struct.unpack("4Q", raw)[3]]


def from_socket(path: str, request: bytes) -> bytes:
    """The same through the software host's socket: a length (u32, big-endian) before each message."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        stream.sendall(struct.pack(">I", len(request)) + request)
        return exactly(stream, *struct.unpack(">I", exactly(stream, 4)))


def exactly(stream: socket.socket, size: int) -> bytes:
    """So many bytes of a stream."""
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise ValueError("cut short")
        data += part
    return data


if __name__ == "__main__":
    main()
