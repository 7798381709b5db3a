"""``deploy-from-attestation live``: live documents of an enclave here, to be verified elsewhere."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.parser import refuse_ignored
from coattest_enclave.protocol import alive
from coattest_parent.cli.options import aws_from, aws_options
from coattest_parent.link.channels import await_listener, parse_address
from coattest_parent.link.enclave import live_document
from coattest_parent.link.stop import Stop

OF_PUT = ("region", "every", "endpoint_url", "ca_bundle")


@click.command("live")
@click.option("--address", required=True, help="vsock:CID:5005 or unix:PATH.")
@click.option("--nonce", help="16 to 64 bytes in hex; the document is over these.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 600),
    default=0.0,
    show_default=True,
    help="Seconds to wait until it listens.",
)
@click.option("--put", metavar="s3://BUCKET/KEY", help="Put documents there instead, each over a new nonce.")
@click.option("--region", help="With --put: the bucket's region.")
@click.option("--every", type=click.FloatRange(1, 600), help="With --put: seconds from one to the next.")
@aws_options
def live_command(
    *,
    address: str,
    nonce: str | None,
    wait: float,
    put: str | None,
    region: str | None,
    every: float | None,
    endpoint_url: str | None,
    ca_bundle: Path | None,
) -> None:
    """Print an enclave's live document over a nonce, unverified; or put one into S3 again and again.

    It is printed in base64. A parent on AWS puts one each minute, for those who verify it elsewhere.
    """
    if (nonce is None) == (put is None):
        raise UsageError("one of --nonce and --put, and not both", where="live")
    target = parse_address(address)
    if put is None:
        refuse_ignored(OF_PUT, "without --put")
        asked = _nonce(nonce or "")
        await_listener(target, wait)
        _, document = live_document(target, asked)
        sys.stdout.write(base64.b64encode(document).decode("ascii") + "\n")
        return
    if region is None:
        raise UsageError("--put needs --region", where="live")
    from coattest.aws import aws_errors  # noqa: PLC0415 - only where AWS is asked
    from coattest_parent.link.aws import parse_s3_uri  # noqa: PLC0415

    bucket, key = parse_s3_uri(put)
    client = aws_from(endpoint_url, ca_bundle).s3(region)

    def put_one() -> None:
        _, document = live_document(target)
        with aws_errors(put):
            client.put_object(Bucket=bucket, Key=key, Body=document)

    # What fails ends it: a service manager starts it again.
    await_listener(target, wait)
    if every is None:
        put_one()
        return
    with Stop(last=True) as stop:
        while not stop.told:
            put_one()
            stop.wait(every)


def _nonce(text: str) -> bytes:
    try:
        asked = bytes.fromhex(text)
    except ValueError:
        asked = b""
    if not alive.NONCE_MIN <= len(asked) <= alive.NONCE_MAX:
        raise UsageError("not 16 to 64 bytes in hex", where="--nonce")
    return asked
