"""Options that several verbs of ``auction`` share."""

from __future__ import annotations

from datetime import datetime

import click

from coattest.errors import UsageError
from coattest.shell import Decorator, option_group, utc_now
from coattest_parent.cli.options import FILE, OWN_FOLDER
from coattest_parent.link.aws import parse_s3_uri
from coattest_parent.link.channels import parse_number
from coattest_verify.auction import messages

UNITS = {"m": 60, "h": 3600, "d": 86400}
"""Seconds of the units of a time from now."""

FROM_NOW_MAX = 10_000
"""Of any unit: 10,000 days are 27 years, and no auction waits longer."""

way_options = option_group(
    click.option("--enclave", required=True, help="vsock:CID:PORT, unix:PATH or hybrid:PATH:PORT."),
    click.option(
        "--proxy",
        help="Where the enclave reaches the proxy to KMS (default: by the enclave's kind; none: one runs).",
    ),
    click.option("--assume-role", "role_arn", help="Assume this role first, as an instance profile would."),
    heading="Enclave",
)
"""How an auction is opened: passed as ``enclave``, ``proxy``, ``role_arn``."""

manifest_option: Decorator = click.option(
    "--manifest", "manifest_path", type=FILE, required=True, help="manifest.cbor"
)
member_option: Decorator = click.option("--member", required=True, help="Your name in the members file.")
record_option: Decorator = click.option(
    "--record",
    "record_path",
    type=FILE,
    required=True,
    help="Your own record, as 'auction certify' wrote it: the manifest must have the same keys and place.",
)

binding_options = option_group(
    manifest_option,
    click.option("--buyer", "name", required=True, help="Your name in the manifest."),
    record_option,
    click.option(
        "--with",
        "known",
        multiple=True,
        metavar="NAME",
        help="Another buyer, once for each: needed without a terminal, where nobody looks at the list.",
    ),
    click.option(
        "--again",
        is_flag=True,
        help="Allow lots that you sealed before in another manifest: both results together may reveal more.",
    ),
    click.option(
        "--journal",
        type=OWN_FOLDER,
        help="Folder of the seal journal (default: seals/ under COATTEST_STATE or the XDG data directory).",
    ),
)
"""Who bids or seals, and what it knows: passed as manifest_path, name, record_path, known, again, journal."""


def check_prefix(prefix: str) -> None:
    """Raise UsageError (``bad-uri``) for anything but ``s3://bucket/`` or ``s3://bucket/prefix/``."""
    parse_s3_uri(f"{prefix}name")
    if not prefix.endswith("/"):
        raise UsageError("the prefix does not end in '/'", where=prefix, code="bad-uri")


def moment(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Option callback: ISO 8601 with a zone, Unix seconds, or a time from now (20m); gives Unix seconds."""
    if (seconds := parse_number(value, messages.AMOUNT_MAX)) is not None:
        return seconds
    count = parse_number(value[:-1], FROM_NOW_MAX)
    if count is not None and (unit := UNITS.get(value[-1])):
        return int(utc_now().timestamp()) + count * unit
    try:
        parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        forms = "ISO 8601, Unix seconds or a time from now (20m, 6h, 3d)"
        raise click.BadParameter(f"{value[:100]!r} is not {forms}", ctx, param) from None
    if parsed.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; add Z for UTC", ctx, param)
    return int(parsed.timestamp())
