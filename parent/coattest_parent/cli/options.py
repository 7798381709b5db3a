"""Options and values that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import boto3
import click

from coattest_enclave import messages
from coattest_parent.aws import Aws, Endpoint
from coattest_parent.channels import parse_number

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)


def aws_options(command: F) -> F:
    """``--endpoint-url`` and ``--ca-bundle``: AWS itself, or a stand-in on this machine."""
    for option in (
        click.option("--ca-bundle", type=FILE, help="CA certificates of that endpoint (PEM)."),
        click.option(
            "--endpoint-url", help="A local endpoint for KMS, S3 and STS instead of AWS (loopback only)."
        ),
    ):
        command = option(command)
    return command


def aws_from(endpoint_url: str | None, ca_bundle: Path | None) -> Aws:
    """A session with credentials from boto3's standard chain."""
    return Aws(boto3.Session(), Endpoint(endpoint_url, ca_bundle), renew=boto3.Session)


manifest_option = click.option("--manifest", "manifest_path", type=FILE, required=True, help="manifest.cbor")
operator_option = click.option("--operator", required=True, help="Your name in the quorum and the manifest.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
journal_option = click.option(
    "--journal",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the record of seals (default: seals/ under COATTEST_STATE or the XDG data directory).",
)


def now() -> datetime:
    """The machine's clock, UTC."""
    return datetime.now(timezone.utc)


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
