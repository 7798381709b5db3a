"""The options of the verbs of ``verify policy``, and the clients that two of them need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from coattest.aws import aws_settings
from coattest.errors import UsageError
from coattest.files import read_bounded
from coattest.shell import option_group
from coattest_verify.cli.options import EXISTING_FILE, decisions_options, endpoint_option
from coattest_verify.keypolicy.iam import Policy, PolicyError, parse_policy
from coattest_verify.keypolicy.iam.parse import MAX_DOCUMENT_BYTES

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ARNS: dict[str, Any] = {"multiple": True, "metavar": "ARN"}

managing_options = option_group(
    click.option("--administrator", "administrators", help="May manage the key, and not decrypt.", **_ARNS),
    click.option("--encrypter", "encrypters", help="May encrypt what the enclave is to read.", **_ARNS),
    click.option("--break-glass", metavar="ARN", help="One more administrator, for emergencies."),
    heading="Who may do what",
)
"""Who is meant to do what: passed as ``administrators``, ``encrypters``, ``break_glass``."""

making_options = option_group(
    decisions_options(required=True),
    click.option(
        "--member",
        required=True,
        help="Your name in quorum.toml: your own agreeing statement must be there.",
    ),
    click.option("--account", required=True, help="The account that owns the key, 12 digits."),
    click.option("--partition", default="aws", show_default=True, help="The account's partition."),
    click.option(
        "--parent-role", "parent_roles", help="The service's instance role, which may decrypt.", **_ARNS
    ),
    managing_options,
    click.option(
        "--seal-key",
        type=EXISTING_FILE,
        help="For an auction: your own auction key (KEY.pub). The key then serves your bids and no others.",
    ),
    click.option(
        "--context",
        multiple=True,
        metavar="KEY=VALUE",
        help="For any other program: encryption context to require.",
    ),
    click.option(
        "--pcr3",
        "pcr3_role",
        metavar="ROLE-ARN",
        help="Require PCR3 of this role (default: of the --parent-role that asks).",
    ),
    click.option("--no-pcr3", is_flag=True, help="RISK: the enclave may run under any role of any account."),
    click.option("--pcr4", "pcr4_instance", metavar="INSTANCE-ID", help="Require PCR4: one parent instance."),
    click.option(
        "--register",
        "registers",
        multiple=True,
        metavar="N=HEX",
        help="A further PCR to require (3, 4, 8).",
    ),
    click.option(
        "--until",
        type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]),
        metavar="TIME",
        help="After this time (2026-11-23T12:00:00Z) nobody can decrypt under the policy.",
    ),
    click.option(
        "--delegate-to-account",
        is_flag=True,
        help="RISK: the account's IAM policies name administrators too.",
    ),
    click.option(
        "--simulator", is_flag=True, help="Take a local profile's decision, for a KMS on loopback only."
    ),
    heading="The policy",
)
"""Which policy to make; ``making.make_policy`` reads them."""

aws_options = option_group(
    endpoint_option("Where KMS, STS and IAM are, if not at AWS: the simulator."),
    click.option("--region", help="The key's region; from its ARN or the environment by default."),
    heading="AWS",
)
"""Where the key is: passed as ``endpoint_url``, ``region``."""


def check_simulator(given: Mapping[str, Any]) -> None:
    """Refuse to put a policy for anyone's enclave on a key that is not the simulator's. Raises UsageError."""
    endpoint = given["endpoint_url"]
    if given["simulator"] and (not endpoint or urlsplit(endpoint).hostname not in LOOPBACK):
        raise UsageError(
            "--simulator needs an --endpoint-url on loopback",
            where=endpoint or "AWS",
            code="simulator-not-loopback",
        )


def aws_client(service: str, given: Mapping[str, Any], key: str) -> Any:
    """A boto3 client where ``aws_options`` say, or in the Region of a key's ARN. Raises AwsFailure."""
    import boto3  # noqa: PLC0415  (half a second that printing a policy does not need)

    region = given["region"] or (key.split(":")[3] if re.match("arn(:[^:]*){3}", key) else None)
    with aws_settings(service):
        session: Any = boto3.session.Session(region_name=region)
        return session.client(service, endpoint_url=given["endpoint_url"])


def read_policy(path: Path) -> Policy:
    """The policy in a file. Raises PolicyError, which names the file."""
    try:
        return parse_policy(read_bounded(path, MAX_DOCUMENT_BYTES))
    except PolicyError as error:
        place = f"{path}: {error.where}" if error.where else str(path)
        raise PolicyError(error.what, where=place, hint=error.hint, code=error.code) from None
