"""``auction show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coattest.jsontext import Rows, emit_json
from coattest.shell import json_option, out
from coattest_parent.cli.auction.options import manifest_option
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest
from coattest_verify.auction.outcomes import moment_text

LOTS_SHOWN = 50
"""Lots in a table; JSON has them all."""


def manifest_json(manifest: messages.Manifest) -> dict[str, Any]:
    """A manifest as JSON, without keys and certificates."""
    return {
        "auction": manifest.auction,
        "digest": manifest.digest.hex(),
        "currency": manifest.currency,
        "rule": manifest.rule,
        "discloses": messages.DISCLOSURE[manifest.rule],
        "lots": Rows(messages.LotList(manifest.lots), lambda lot: {"lot": lot.id, "reserve": lot.reserve}),
        "buyers": [{"name": buyer.name, "kms": buyer.kms, "bids": buyer.bids} for buyer in manifest.buyers],
        "closes": moment_text(manifest.closes),
        "publish_by": moment_text(manifest.publish_by),
    }


def lots_table(manifest: messages.Manifest) -> Table:
    """A table of the first LOTS_SHOWN lots and reserves."""
    table = Table("lot", "reserve")
    for lot in messages.LotList(manifest.lots)[:LOTS_SHOWN]:
        table.add_row(lot.id, str(lot.reserve) if lot.reserve else "none")
    if len(manifest.lots) > LOTS_SHOWN:
        table.caption = f"and {len(manifest.lots) - LOTS_SHOWN} more lots"
    return table


@click.command("show")
@manifest_option
@json_option
def show_command(*, manifest_path: Path, as_json: bool) -> None:
    """Show a manifest, without verifying it.

    'auction seal' verifies it.
    """
    manifest = load_manifest(manifest_path)
    if as_json:
        emit_json(manifest_json(manifest))
        return
    console = out()
    console.print(f"{manifest.auction}  {manifest.rule}  {manifest.currency}", markup=False)
    console.print(f"digest      {manifest.digest.hex()}", markup=False)
    console.print(f"closes      {moment_text(manifest.closes)}", markup=False)
    console.print(f"publish by  {moment_text(manifest.publish_by)}", markup=False)
    console.print(f"discloses   {messages.DISCLOSURE[manifest.rule]}", markup=False)
    buyers = Table("buyer", "KMS key", "bids")
    for buyer in manifest.buyers:
        buyers.add_row(buyer.name, buyer.kms, buyer.bids)
    console.print(buyers)
    console.print(lots_table(manifest))
