"""The enclave's program: read the trust file, find the NSM, serve. It takes no arguments or environment."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

from coattest_enclave.payload import entropy, hardening, transport
from coattest_enclave.payload.clock import Clock
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.server import BACKLOG, Server
from coattest_enclave.payload.trust import NSM_DEVICE, TRUST_FILE, Trust, parse_trust
from coattest_enclave.payload.turns import Turns
from coattest_enclave.protocol.errors import EnclaveError
from coattest_enclave.protocol.wire import Frame


def main(trust_file: Path = TRUST_FILE) -> int:
    """Serve until the process ends; 1 when it cannot start.

    It writes one line to the console before the first connection, or none if the trust file says so.
    """
    # A traceback on the console could hold anything; requests report failures in their frames.
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    try:
        trust = parse_trust(trust_file.read_bytes())
        if not trust.console:
            _silence()
        trust = trust.on_hardware(Path(NSM_DEVICE).exists())
        entropy.require_source(trust.entropy)
        nsm = Nsm(trust.nsm[0])
        Clock.read(nsm, set_system=not nsm.is_simulated)
        listener = transport.listen(trust.listen[0], BACKLOG)
        hardening.close_process()
    except (EnclaveError, OSError) as error:
        why = error.detail if isinstance(error, EnclaveError) else error.strerror
        print(f"coattest-enclave: cannot start: {why}", flush=True)
        return 1
    print(f"coattest-enclave: profile {trust.profile}, serving {trust.listen[0]}", flush=True)
    _silence()
    auction_server(trust).serve(listener)
    return 0


def auction_server(trust: Trust) -> Server:
    """What answers ``alive``, and ``open`` one at a time."""
    proxies = list(trust.proxy)

    def opening(stream: socket.socket, frame: Frame, turns: Turns) -> None:
        # Only an open needs TLS and RSA. Loading them with the first one halves the time until the enclave
        # can answer ``alive`` (docs/benchmarks.md).
        from coattest_enclave.session import open_auction  # noqa: PLC0415

        open_auction(stream, frame, trust, proxies, turns)

    return Server(Nsm(trust.nsm[0]), heavy={"open": opening})


def _silence() -> None:
    """Keep everything that Python or a library writes from now on off the console."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    if nowhere not in (1, 2):  # it is 1 or 2 if that stream was closed
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
