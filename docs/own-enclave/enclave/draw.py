"""Draws one of the names it is sent; an attestation document says that this program drew it, and for whom.

A request is a frame ``draw`` with a nonce of 32 bytes and a list of names. The answer has a line of text,
and a document whose nonce is the request's and whose user_data is the line's SHA-384.
"""

import hashlib
import os
from pathlib import Path

from coattest_enclave.payload import entropy, hardening, transport
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.server import BACKLOG, Server
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.wire import Frame

CONFIG = Path("/etc/draw.conf")  # the profile's file: the NSM, where to listen, where random numbers are from


def main() -> None:
    """Answer every connection, for ever."""
    address, place, source = CONFIG.read_text().split()
    entropy.require_source([source])
    nsm = Nsm(address)

    def answer(frame: Frame) -> Frame:
        """Of a peer who may send anything; the server bounds how long, how much and how many."""
        match frame.body:
            case {"nonce": bytes(nonce), "names": [*names], **rest} if (
                not rest and len(nonce) == 32 and all(isinstance(name, str) for name in names)
            ):
                line = draw(names)
                document = nsm.attest(user_data=hashlib.sha384(line).digest(), nonce=nonce)
                return Frame(frame.request, "result", {"line": line, "document": document})
        raise MessageError("draw takes a nonce of 32 bytes and names")

    listener = transport.listen(place, BACKLOG)
    hardening.close_process()
    Server(nsm, light={"draw": answer}).serve(listener)


def draw(given: list[str]) -> bytes:
    """The line about one of the names."""
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise MessageError("no names")
    chosen = int.from_bytes(os.urandom(16), "big") % len(names)
    digest = hashlib.sha384("\n".join(names).encode()).hexdigest()
    return f"{names[chosen]}, one of {len(names)} names with SHA-384 {digest}\n".encode()


if __name__ == "__main__":
    main()
