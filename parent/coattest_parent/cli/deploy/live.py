"""``deploy-from-attestation live``: a live document of an enclave here, to be verified elsewhere."""

from __future__ import annotations

import base64
import sys

import click

from coattest.errors import UsageError
from coattest_enclave.protocol import alive
from coattest_parent.link.channels import await_listener, parse_address
from coattest_parent.link.enclave import EnclaveClient


@click.command("live")
@click.option("--address", required=True, help="vsock:CID:5005 or unix:PATH.")
@click.option("--nonce", required=True, help="16 to 64 bytes in hex; the document is over these.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 600),
    default=0.0,
    show_default=True,
    help="Seconds to wait until it listens.",
)
def live_command(*, address: str, nonce: str, wait: float) -> None:
    """Print an enclave's live document over a nonce, unverified.

    It is in base64. apply runs this on the instance, and verifies the document where apply runs.
    """
    try:
        asked = bytes.fromhex(nonce)
    except ValueError:
        asked = b""
    if not alive.NONCE_MIN <= len(asked) <= alive.NONCE_MAX:
        raise UsageError("not 16 to 64 bytes in hex", where="--nonce")
    target = parse_address(address)
    await_listener(target, wait)
    with EnclaveClient(target) as client:
        sys.stdout.write(base64.b64encode(client.alive(asked)).decode("ascii") + "\n")
