"""``verify keygen``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import err, json_option
from coattest_verify.cli.options import FILE
from coattest_verify.signatures.keys import SCHEMES, generate_key, read_passphrase


@click.command("keygen")
@click.option(
    "--out", "path", type=NEW_FILE, required=True, help="The private key; KEY.pub is written beside it."
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(list(SCHEMES)),
    default="ed25519",
    show_default=True,
    help="Kind of key.",
)
@click.option("--passphrase-file", type=FILE, help="Encrypt with the first line of this file.")
@click.option("--prompt", "ask", is_flag=True, help="Encrypt with a passphrase asked for on the terminal.")
@json_option
def keygen_command(*, path: Path, kind: str, passphrase_file: Path | None, ask: bool, as_json: bool) -> None:
    """Make a member's key: PKCS#8 PEM, mode 0600, encrypted when a passphrase is given."""
    if ask and passphrase_file:
        raise UsageError("--prompt and --passphrase-file exclude each other")
    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    if ask and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on", hint="--passphrase-file FILE")
    if ask:
        passphrase = click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
    public = generate_key(path, kind, passphrase)
    if as_json:
        emit_json(
            {
                "private": str(path),
                "public": f"{path}.pub",
                "type": kind,
                "encrypted": passphrase is not None,
                "fingerprint": f"sha256:{public.fingerprint}",
                "keyid": public.keyid,
            }
        )
        return
    err().print(f"{path}: {kind} private key, {'encrypted' if passphrase else 'NOT encrypted'}")
    err().print(f"{path}.pub: give this to the member who writes quorum.toml")
    err().show_facts([("fingerprint", f"sha256:{public.fingerprint}"), ("keyid", public.keyid)])
