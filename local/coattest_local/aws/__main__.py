"""``python -m coattest_local.aws --directory DIR``: the local AWS services as a process."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest.shell import err, run, utc_now
from coattest_local.aws import accounts, server, services
from coattest_local.aws.faults import Faults
from coattest_local.aws.gate import Gate
from coattest_local.aws.trail import Trail
from coattest_local.host.ca import tls_ca_pem
from coattest_parent.link.stop import Stop
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR


@click.command()
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; 0 takes a free one.")
@click.option("--region", default=services.REGION, show_default=True)
@click.option("--account", "account_list", multiple=True, metavar="NAME=ID", help="Repeatable.")
@click.option("--exit-with-parent", is_flag=True, help="End when stdin is closed.")
@click.pass_obj
def main(
    make_faults: Callable[[Path], Faults] | None,
    *,
    directory: Path,
    port: int,
    region: str,
    account_list: tuple[str, ...],
    exit_with_parent: bool,
) -> None:
    """Serve KMS, S3, STS, IAM, CloudFormation, EC2 and Auto Scaling on loopback until it is told to stop.

    A test's program hands in faults as the click context's ``obj``.
    """
    with Stop(last=True) as stop:
        # moto must neither look at this machine's credentials nor answer for an account on its own.
        os.environ.pop("MOTO_ACCOUNT_ID", None)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        err().print(
            "SIMULATOR: this is not AWS. Keys live in memory, the TLS authority's private key is published, "
            "and attestation documents are the simulator's. It protects nothing.",
            style="bold yellow",
        )
        trail = Trail(directory / "cloudtrail.jsonl", utc_now)
        known = [services.parse_account(item) for item in account_list or services.ACCOUNTS]
        names, numbers = {name for name, _ in known}, {number for _, number in known}
        if len(names) != len(known) or len(numbers) != len(known):
            raise UsageError("an account is named twice", where="--account")
        opened = {name: accounts.bootstrap(number) for name, number in known}
        gate = Gate(
            LOCAL_SIMULATOR,
            trail,
            utc_now,
            instances=directory / "instances",
            faults=make_faults(directory) if make_faults else None,
        )
        regions = tuple(dict.fromkeys((region, *server.REGIONS)))
        context = server.tls_context(directory, server.certificate_names(regions))
        listening = server.TlsServer(gate, context, port)
        listening.serve_in_background()
        _announce(directory, listening.port, region, opened)
        if exit_with_parent:
            threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
        stop.wait()
        listening.shutdown()
        gate.stop()


def _announce(directory: Path, port: int, region: str, opened: dict[str, dict[str, str]]) -> None:
    bundle = directory / "ca.pem"
    write_atomic(bundle, tls_ca_pem())
    ready: dict[str, Any] = {
        "endpoint": f"https://localhost:{port}",
        "ca_bundle": str(bundle),
        "pid": os.getpid(),
        "region": region,
        "accounts": opened,
    }
    write_atomic(directory / "ready.json", json.dumps(ready, indent=2).encode() + b"\n", mode=0o600)


def _watch_parent(stop: Stop) -> None:
    # Not through sys.stdin: Python aborts when it ends while a thread reads there.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    stop.tell()


if __name__ == "__main__":
    run(main, "coattest_local.aws")
