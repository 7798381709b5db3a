"""deploy-from-attestation live: a document of the enclave beside us, for somebody else to verify."""

from __future__ import annotations

import base64
import sys

import click

from coattest.errors import UsageError
from coattest_parent.link.channels import await_listener, parse_address
from coattest_parent.link.enclave import EnclaveClient

NONCE_BYTES = range(16, 65)


@click.command("live")
@click.option("--address", required=True, help="vsock:CID:5005 or unix:PATH.")
@click.option("--nonce", required=True, help="16 to 64 bytes in hex.")
@click.option("--wait", type=click.FloatRange(0, 600), default=0.0, show_default=True, help="Seconds.")
def live_command(*, address: str, nonce: str, wait: float) -> None:
    """Print an enclave's liveness document over a nonce, in base64, unverified.

    apply calls it on the instance, and verifies what it prints where apply runs.
    """
    try:
        asked = bytes.fromhex(nonce)
    except ValueError:
        asked = b""
    if len(asked) not in NONCE_BYTES:
        raise UsageError("not 16 to 64 bytes in hex", where="--nonce")
    target = parse_address(address)
    await_listener(target, wait)
    with EnclaveClient(target) as client:
        sys.stdout.write(base64.b64encode(client.alive(asked)).decode("ascii") + "\n")
