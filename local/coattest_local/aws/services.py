"""Start the local AWS services as a process and wait until they answer. Imports no moto itself."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure, UsageError
from coattest.extras import need_extra
from coattest.programs.environment import OWN_VARIABLES, program_environment, python_program
from coattest.programs.start import start_program

START_TIMEOUT = 240.0
"""Seconds for moto's import and the first listening socket: 2 on two cores, many times that on a busy one."""

STOP_TIMEOUT = 30.0
"""Seconds for the services to end, with every enclave of their instances."""

READY = "ready.json"
"""Where the services are and whose keys they take, once they answer."""

PROGRAM = "coattest_local.aws"
"""The module that serves."""

ACCOUNTS = ("service=111122223333", "buyer-1=222233334444", "buyer-2=333344445555")
REGION = "eu-central-1"
"""What is served where nothing else is asked for; every region answers."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the local services and its admin user's key."""

    name: str
    account: str
    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True)
class Services:
    """The running services: where they are, and how to call them."""

    endpoint: str
    ca_bundle: Path
    pid: int
    region: str
    accounts: Mapping[str, Account]
    directory: Path

    @property
    def trail(self) -> Path:
        """The CloudTrail-like log, one JSON event a line."""
        return self.directory / "cloudtrail.jsonl"

    def client(
        self,
        service: str,
        account: str,
        *,
        region: str | None = None,
        session: Mapping[str, str] | None = None,
    ) -> Any:
        """A boto3 client as the account's admin, or with ``session``: credentials as AssumeRole returns them.

        ``service`` is kms, s3, sts or iam; the account is named as in ``accounts``.
        """
        import boto3  # noqa: PLC0415 - slow to import, and starting the services does not need it

        key = self.accounts[account]
        credentials = session or {"AccessKeyId": key.access_key, "SecretAccessKey": key.secret_key}
        session_: Any = boto3.session.Session()
        return session_.client(
            service,
            region_name=region or self.region,
            endpoint_url=self.endpoint,
            verify=str(self.ca_bundle),
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials.get("SessionToken"),
        )

    def environment(self, account: str) -> dict[str, str]:
        """The environment of a command that uses these services as an account's admin."""
        key = self.accounts[account]
        return {
            "AWS_ACCESS_KEY_ID": key.access_key,
            "AWS_SECRET_ACCESS_KEY": key.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_CA_BUNDLE": str(self.ca_bundle),
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def parse_account(item: str) -> tuple[str, str]:
    """Name and id of ``NAME=ID``. Raises UsageError."""
    name, _, number = item.partition("=")
    if not name or len(number) != 12 or not (number.isascii() and number.isdigit()):
        raise UsageError(f"{item!r} is not NAME=ID with 12 digits", where="--account")
    return name, number


def read_ready(directory: Path) -> Services:
    """The services that run in a directory. Raises OSError or ValueError when there are none."""
    document = json.loads((directory / READY).read_text())
    return Services(
        endpoint=document["endpoint"],
        ca_bundle=Path(document["ca_bundle"]),
        pid=document["pid"],
        region=document["region"],
        accounts={name: Account(name, **values) for name, values in document["accounts"].items()},
        directory=directory,
    )


@contextlib.contextmanager
def start(
    directory: Path,
    *,
    accounts: Sequence[str] = (),
    region: str = REGION,
    port: int = 0,
    quiet: bool = False,
    program: Sequence[str] | None = None,
) -> Iterator[Services]:
    """Run the services in ``directory`` for the length of the block; ``accounts`` are NAME=ID strings.

    ``quiet`` sends the simulator's warning to DIR/services.log. A test that wants faults gives a ``program``
    of its own. Raises EnvironmentFailure when the extra ``local`` is not installed or the services do not
    start.
    """
    need_extra("local")
    directory.mkdir(parents=True, exist_ok=True)
    ready = directory / READY
    ready.unlink(missing_ok=True)
    directory = directory.resolve()
    command = [*(program or python_program(PROGRAM)), "--directory", str(directory), "--exit-with-parent"]
    command += ["--port", str(port), "--region", region]
    command += [argument for item in accounts for argument in ("--account", item)]
    with (directory / "services.log").open("ab") as log:
        process = start_program(
            command,
            environment=program_environment(OWN_VARIABLES),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log if quiet else None,
        )
        try:
            yield _await(process, ready)
        finally:
            _stop(process)


def _await(process: subprocess.Popen[bytes], ready: Path) -> Services:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if ready.exists():
            return read_ready(ready.parent)
        if process.poll() is not None:
            raise EnvironmentFailure(
                f"the local services ended with exit code {process.returncode}",
                where=str(ready.parent),
                hint="its output is above, or in services.log",
                code="services-failed",
            )
        time.sleep(0.05)
    raise EnvironmentFailure(
        f"the local services did not start within {START_TIMEOUT:.0f} s",
        where=str(ready.parent),
        code="services-failed",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(timeout=STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
