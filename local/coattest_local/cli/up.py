"""``nitro-local up``: the local AWS services alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from coattest.jsontext import emit_json
from coattest.shell import err, needs_extra
from coattest_local.aws import services
from coattest_parent.link.stop import Stop


@needs_extra("local")
@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for ready.json, ca.pem and cloudtrail.jsonl (default: a temporary one).",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; 0 takes a free one.")
@click.option("--account", "accounts", multiple=True, metavar="NAME=ID", help="12 digits; repeatable.")
@click.option("--region", help="The region of the examples; every region answers.")
@click.option(
    "--unsafe-allow-unsigned-documents",
    is_flag=True,
    help="Accept attestation documents that nobody signed (QEMU's); anyone can make one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what ready.json holds, secret keys included.")
def up_command(
    *,
    directory: Path | None,
    port: int,
    accounts: tuple[str, ...],
    region: str | None,
    unsafe_allow_unsigned_documents: bool,
    as_json: bool,
) -> None:
    """Run KMS, S3, STS, IAM and CloudFormation on loopback until interrupted.

    It is a simulator and protects nothing.
    """
    with Stop(last=True) as stop, TemporaryDirectory(prefix="nitro-local-") as temporary:
        place = directory or Path(temporary)
        with services.start(
            place,
            accounts=accounts,
            region=region,
            port=port,
            unsafe_allow_unsigned_documents=unsafe_allow_unsigned_documents,
        ) as running:
            if as_json:
                emit_json(_document(running))
            else:
                _show(running)
            stop.wait()


def _document(running: services.Services) -> dict[str, object]:
    return {
        "endpoint": running.endpoint,
        "ca_bundle": str(running.ca_bundle),
        "region": running.region,
        "pid": running.pid,
        "accounts": {
            name: {
                "account": account.account,
                "access_key": account.access_key,
                "secret_key": account.secret_key,
            }
            for name, account in running.accounts.items()
        },
    }


def _show(running: services.Services) -> None:
    console = err()
    console.print(f"endpoint   {running.endpoint}")
    console.print(f"ca bundle  {running.ca_bundle}")
    console.print(
        f"accounts   {', '.join(f'{item.name} {item.account}' for item in running.accounts.values())}"
    )
    console.print(f"keys       {running.directory / 'ready.json'} (mode 0600)")
    console.print("Ctrl-C ends it and deletes everything in it.")
