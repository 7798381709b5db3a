"""``auction show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coattest.console import PlainConsole
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


def show_lots(console: PlainConsole, manifest: messages.Manifest) -> None:
    """Print the first LOTS_SHOWN lots and reserves."""
    console.show_rows(
        ("lot", "reserve"),
        [(lot.id, str(lot.reserve or "none")) for lot in messages.LotList(manifest.lots)[:LOTS_SHOWN]],
        more=more_lots(len(manifest.lots), LOTS_SHOWN),
    )


def more_lots(lots: int, shown: int) -> str:
    """What stands under a table of the first ``shown`` lots; empty when these are all."""
    return f"and {lots - shown} more lots" if lots > shown else ""


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
    console.print(f"{manifest.auction}  {manifest.rule}  {manifest.currency}")
    console.show_facts(
        [
            ("digest", manifest.digest.hex()),
            ("closes", moment_text(manifest.closes)),
            ("publish by", moment_text(manifest.publish_by)),
            ("discloses", messages.DISCLOSURE[manifest.rule]),
        ]
    )
    console.show_rows(
        ("buyer", "KMS key", "bids"), [(buyer.name, buyer.kms, buyer.bids) for buyer in manifest.buyers]
    )
    show_lots(console, manifest)
