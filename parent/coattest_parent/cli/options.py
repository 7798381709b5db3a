"""Options and values that several verbs of both programs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coattest.parser import NamedPath
from coattest.shell import option_group

if TYPE_CHECKING:
    from coattest_parent.link.aws import Aws

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OWN_FOLDER = NamedPath(file_okay=False, path_type=Path)

aws_options = option_group(
    click.option("--endpoint-url", help="Use this local endpoint instead of AWS (loopback only)."),
    click.option("--ca-bundle", type=FILE, help="CA certificates of that endpoint (PEM)."),
    heading="AWS",
)
"""AWS itself, or a stand-in on this machine: passed as ``endpoint_url``, ``ca_bundle``."""


def aws_from(endpoint_url: str | None, ca_bundle: Path | None) -> Aws:
    """A session with credentials from boto3's standard chain.

    Raises UsageError for an endpoint elsewhere, AwsFailure for settings that cannot be used.
    """
    import boto3  # noqa: PLC0415 - half a second, and an extra, for verbs that ask AWS for nothing

    from coattest.aws import aws_settings  # noqa: PLC0415
    from coattest_parent.link.aws import Aws, Endpoint  # noqa: PLC0415

    endpoint = Endpoint(endpoint_url, ca_bundle)
    with aws_settings("credentials"):
        return Aws(boto3.Session(), endpoint, renew=boto3.Session)
