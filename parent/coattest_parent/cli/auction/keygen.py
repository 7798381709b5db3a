"""``auction keygen``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import err, json_option
from coattest_verify.signatures.keys import generate_key


@click.command("keygen")
@click.option(
    "--out",
    type=NEW_FILE,
    required=True,
    help="Where to write the private key; the public key goes to OUT.pub.",
)
@json_option
def auction_keygen_command(*, out: Path, as_json: bool) -> None:
    """Make a buyer's auction key (EC P-384), which signs seals."""
    public = generate_key(out, "p384")
    if as_json:
        emit_json({"private": str(out), "public": f"{out}.pub", "sha256": public.fingerprint})
    else:
        err().print(f"auction key {out} (public: {out}.pub), SHA-256 of its SPKI {public.fingerprint}")
