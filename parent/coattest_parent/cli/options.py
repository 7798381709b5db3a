"""Options and values that several verbs share."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coattest.shell import Decorator, option_group
from coattest_enclave.protocol import messages
from coattest_parent.link.channels import parse_number

if TYPE_CHECKING:
    from coattest_parent.link.aws import Aws

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

aws_options = option_group(
    click.option(
        "--endpoint-url", help="A local endpoint for KMS, S3 and STS instead of AWS (loopback only)."
    ),
    click.option("--ca-bundle", type=FILE, help="CA certificates of that endpoint (PEM)."),
    heading="AWS",
)
"""AWS itself, or a stand-in on this machine: passed as ``endpoint_url``, ``ca_bundle``."""

way_options = option_group(
    click.option("--enclave", required=True, help="vsock:CID:PORT, unix:PATH or hybrid:PATH:PORT."),
    click.option(
        "--proxy",
        help="Where the enclave looks for the proxy to KMS (default: by the enclave's kind; none: it runs).",
    ),
    click.option("--assume-role", "role_arn", help="Assume this role first, as an instance profile would."),
    heading="Enclave",
)
"""How an auction is opened: passed as ``enclave``, ``proxy``, ``role_arn``."""


def aws_from(endpoint_url: str | None, ca_bundle: Path | None) -> Aws:
    """A session with credentials from boto3's standard chain."""
    import boto3  # noqa: PLC0415 - half a second, and an extra, for verbs that ask AWS for nothing

    from coattest_parent.link.aws import Aws, Endpoint  # noqa: PLC0415

    return Aws(boto3.Session(), Endpoint(endpoint_url, ca_bundle), renew=boto3.Session)


manifest_option: Decorator = click.option(
    "--manifest", "manifest_path", type=FILE, required=True, help="manifest.cbor"
)
member_option: Decorator = click.option("--member", required=True, help="Your name in the members file.")
buyer_option: Decorator = click.option("--buyer", "name", required=True, help="Your name in the manifest.")
journal_option: Decorator = click.option(
    "--journal",
    type=NEW_FOLDER,
    help="Directory of the record of seals (default: seals/ under COATTEST_STATE or the XDG data directory).",
)


def moment(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Option callback: ISO 8601 with a zone, or Unix seconds; gives Unix seconds."""
    if (seconds := parse_number(value, messages.AMOUNT_MAX)) is not None:
        return seconds
    try:
        parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        shown = repr(value[:100])
        raise click.BadParameter(f"{shown} is neither ISO 8601 nor Unix seconds", ctx, param) from None
    if parsed.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; add Z for UTC", ctx, param)
    return int(parsed.timestamp())
