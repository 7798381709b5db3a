"""``nitro-local up``: the local AWS services alone."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER, refuse_ignored
from coattest.shell import err, needs_extra
from coattest_local.aws import services
from coattest_local.demo.example import check_places, make_example
from coattest_parent.link.stop import Stop

EXAMPLE = Path("coattest-example")
"""The example's folder, in the user's home, where no other is named."""


@needs_extra("local")
@click.command()
@click.option(
    "--directory",
    type=NEW_FOLDER,
    help="Folder for ready.json, ca.pem and cloudtrail.jsonl (default: a temporary one; with --example "
    "a new folder for everything, ~/coattest-example).",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; 0 takes a free one.")
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME=ID",
    help="An account, with an id of 12 digits; repeatable.",
)
@click.option("--region", default=services.REGION, help="The region of the examples; every region answers.")
@click.option(
    "--example",
    is_flag=True,
    help="Make what the tutorials need: accounts, roles, users, keys, buckets, and a file of variables for "
    "each party.",
)
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="With --example: the checkout that the tutorials rebuild (default: this folder).",
)
@click.option("--json", "as_json", is_flag=True, help="Print what ready.json holds, secret keys included.")
def up_command(
    *,
    directory: Path | None,
    port: int,
    accounts: tuple[str, ...],
    region: str,
    example: bool,
    source: Path,
    as_json: bool,
) -> None:
    """Run KMS, S3, STS, IAM and CloudFormation on loopback until interrupted.

    It is a simulator and protects nothing.
    """
    for account in accounts:
        services.parse_account(account)
    if example:
        refuse_ignored(("accounts", "region"), "with --example, which has its own")
        directory = (directory or Path.home() / EXAMPLE).absolute()
        check_places(directory, source)
    else:
        refuse_ignored(("source",), "without --example")
    with Stop(last=True) as stop, contextlib.ExitStack() as stack:
        place = directory or Path(stack.enter_context(TemporaryDirectory(prefix="nitro-local-")))
        folder = place / "aws" if example else place
        started = services.start(folder, accounts=accounts, region=region, port=port)
        running = stack.enter_context(started)
        files = make_example(running, place, source) if example else {}
        if as_json:
            emit_json(_document(running, files))
        else:
            _show(running)
            if example:
                _show_example(place, files)
            else:
                err().print("Ctrl-C ends it and deletes everything in it.")
        stop.wait()


def _document(running: services.Services, files: dict[str, Path]) -> dict[str, Any]:
    example = {"example": {name: str(path) for name, path in files.items()}} if files else {}
    return {**json.loads((running.directory / services.READY).read_bytes()), **example}


def _show(running: services.Services) -> None:
    console = err()
    console.print(f"endpoint   {running.endpoint}")
    console.print(f"ca bundle  {running.ca_bundle}")
    console.print(
        f"accounts   {', '.join(f'{item.name} {item.account}' for item in running.accounts.values())}"
    )
    console.print(f"keys       {running.directory / services.READY} (mode 0600)")


def _show_example(place: Path, files: dict[str, Path]) -> None:
    """What a person types next. Nothing of it is cut or wrapped: it is to be copied."""
    console = err()
    console.print("\nLeave this running, and open a terminal for each party. In it:")
    for name, path in files.items():
        typed = f"cd {shlex.quote(str(place / name))} && . {shlex.quote(f'../{path.name}')}"
        console.print(f"  {name}   {typed}")
    console.print(
        "\nThen follow docs/tutorial-buyer.md as both buyers, from step 1, and docs/tutorial-service.md."
    )
    console.print("Ctrl-C ends it. Keys, buckets and roles are in memory: start again in a new folder then.")
