"""``verify fleet``: does every enclave still run what was decided, and what changed since the last look?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from coattest.aws import aws_settings
from coattest.errors import CoattestError, Rejected, UsageError
from coattest.extras import need_extra
from coattest.files import require_writable
from coattest.jsontext import emit_json
from coattest.shell import json_option, option_group, report_error, utc_now
from coattest_verify.attestation.profiles import root_for
from coattest_verify.cli.fleet.keys import KeyChecks
from coattest_verify.cli.fleet.show import show_changes, show_look
from coattest_verify.cli.options import EXISTING_FILE, FILE, endpoint_option, evidence_options
from coattest_verify.cli.release.which import Belonging
from coattest_verify.fleet.file import FleetFile, InBucket, load_fleet
from coattest_verify.fleet.grammar import duration_ms
from coattest_verify.fleet.judge import ExpectedRelease
from coattest_verify.fleet.look import Watcher
from coattest_verify.fleet.reach import AT_A_TIME, Clients, no_aws
from coattest_verify.quorum.authority import evidence_from, outcome_from
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import claims_in

AWS_TIMEOUT = 20
"""Seconds to connect to AWS, and to wait for bytes: a look has thousands of requests."""

AWS_ATTEMPTS = 3
"""Attempts per request in all, with botocore's standard back-off and jitter; the next look is one more."""


def decided_releases(
    options: Mapping[str, Any], names: Sequence[str], now: datetime
) -> dict[str, ExpectedRelease]:
    """What the quorum says of each release, as ``verify release which`` says it. Raises as outcome_from."""
    with evidence_from(options) as evidence:
        claims = {claim.release: claim for claim in claims_in(evidence)[0]}
    found = {}
    for name in names:
        outcome = outcome_from(options, now, release=name)
        decision = outcome.decision
        claimed = claims[name].profiles.get(options["profile"]) if name in claims else None
        pcrs = decision.pcrs if decision else dict(enumerate(claimed.pcrs)) if claimed else {}
        found[name] = ExpectedRelease(
            name,
            Belonging(name, outcome, None).answer,
            {index: bytes.fromhex(value) for index, value in pcrs.items()},
            decision.expires if decision else None,
            outcome.reasons,
        )
    return found


def needs_aws(fleet: FleetFile) -> bool:
    """Whether anything of a fleet lies in AWS."""
    return (
        any(isinstance(source.reach, InBucket) for source in fleet.sources)
        or any(policy.key for policy in fleet.policies)
        or any(audit.logs.startswith("s3://") or not audit.public_keys for audit in fleet.audits)
    )


def aws_clients(endpoint: str | None) -> Clients:
    """boto3 clients, each made once: a session renews its credentials itself.

    Raises EnvironmentFailure without the extra, AwsFailure (no-credentials) without any, as the clients may.
    """
    need_extra("aws")
    import boto3  # noqa: PLC0415  (an extra)
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import NoCredentialsError  # noqa: PLC0415

    config = Config(
        connect_timeout=AWS_TIMEOUT,
        read_timeout=AWS_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": AWS_ATTEMPTS},
        max_pool_connections=AT_A_TIME,
    )
    with aws_settings("credentials"):
        session: Any = boto3.session.Session()
        if session.get_credentials() is None:
            raise NoCredentialsError

    @functools.cache
    def client(service: str, region: str) -> Any:
        with aws_settings(service):
            return session.client(service, region_name=region, endpoint_url=endpoint, config=config)

    return client


def watch(watcher: Watcher, every: float, *, sleep: Callable[[float], None] = time.sleep) -> NoReturn:
    """Look again and again, ``every`` so many seconds; what fails one look is told, and the next one tries.

    Ends by a signal, or by what ``sleep`` raises.
    """
    while True:
        began = time.monotonic()
        try:
            show_changes(watcher.look())
        except (CoattestError, OSError) as error:
            report_error(error, "verify fleet")
        sleep(max(0.0, every - (time.monotonic() - began)))


def _every(value: str) -> float:
    try:
        seconds = duration_ms(value) / 1000
    except Rejected as error:
        raise UsageError(error.what, where="--every") from None
    if not seconds:
        raise UsageError("must be a second or more", where="--every")
    return seconds


@click.command("fleet")
@click.argument("fleet", metavar="FLEET.toml", type=EXISTING_FILE)
@option_group(
    click.option("--every", type=_every, metavar="SECONDS|2m", help="Look again and again, until stopped."),
    click.option(
        "--state",
        type=FILE,
        help="File of what the last look saw: for telling what changed, and for waiting while enclaves boot.",
    ),
    click.option(
        "--prometheus", type=FILE, metavar="FILE", help="Write the figures here, for a textfile collector."
    ),
    heading="Watching",
)
@evidence_options
@endpoint_option("Where S3, Auto Scaling, KMS and CloudTrail are, if not at AWS.")
@json_option
def fleet_command(
    *,
    fleet: Path,
    every: float | None,
    state: Path | None,
    prometheus: Path | None,
    endpoint_url: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Verify every enclave of a fleet, and say what changed since the last look.

    FLEET.toml names the sources of documents (files, addresses that are asked over a fresh nonce, or the
    bucket of a deployment), for each the releases that may run there, and buyers' keys with their policies
    and trails. What is decided is decided anew at each look. Exit code 0: every enclave is verified, every
    key as decided. 1: one is drifted, revoked or refused, or its document is not valid. 3: one is silent or
    its release is not decided yet.
    """
    if every is not None and as_json:
        raise UsageError("--json prints one document, and --every looks again and again")
    watched = load_fleet(fleet)
    for path in (state, prometheus):
        if path is not None:
            require_writable(path)
    clients: Clients = no_aws
    if needs_aws(watched):
        clients = aws_clients(endpoint_url)
    options["root"] = Roots().pinned(options["root"])
    watcher = Watcher(
        watched,
        lambda now: decided_releases(options, watched.releases, now),
        root_for(options["profile"]),
        utc_now,
        clients,
        state=state,
        prometheus=prometheus,
        again=every is not None,
        keys=KeyChecks(watched, {**options, "endpoint_url": endpoint_url}, clients),
    )
    if every is not None:
        watch(watcher, every)
    look = watcher.look()
    if as_json:
        emit_json(look.to_json())
    else:
        show_look(look, compared=state is not None)
    return look.code
