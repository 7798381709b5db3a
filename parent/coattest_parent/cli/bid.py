"""``auction bid``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coattest_enclave import messages
from coattest_parent.auction import make_bid
from coattest_parent.cli.options import (
    FILE,
    NEW_FILE,
    aws_from,
    aws_options,
    journal_option,
    json_option,
    manifest_option,
    now,
    operator_option,
)
from coattest_parent.cli.show import LOTS_SHOWN
from coattest_parent.courier import upload_bid
from coattest_verify.authority import authority_from
from coattest_verify.bids import CSV_MAX, Bids, buyer_of, read_bids
from coattest_verify.buyers import load_manifest
from coattest_verify.cli.options import decision_options
from coattest_verify.journal import SealJournal, default_journal
from coattest_verify.shell import emit_json, err, write_atomic


@click.command()
@manifest_option
@operator_option
@click.option("--bids", "csv_path", type=FILE, required=True, help="CSV with the header lot,amount.")
@click.option(
    "--out", type=NEW_FILE, required=True, help="The encrypted bid file; keep it for 'auction seal'."
)
@click.option("--upload/--no-upload", default=False, help="Put it at the manifest's bids URI.")
@click.option("--show-amounts", is_flag=True, help="Show the amounts in the preview, on this terminal only.")
@click.option("--preview", is_flag=True, help="Check and show the bids; encrypt and upload nothing.")
@journal_option
@aws_options
@decision_options
@json_option
def bid(
    *,
    manifest_path: Path,
    operator: str,
    csv_path: Path,
    out: Path,
    upload: bool,
    show_amounts: bool,
    preview: bool,
    journal: Path | None,
    endpoint_url: str | None,
    ca_bundle: Path | None,
    as_json: bool,
    **decision: Any,
) -> None:
    """Encrypt your bids so that only the decided enclave can open them, for this auction only."""
    manifest = load_manifest(manifest_path)
    buyer = buyer_of(manifest, operator)
    with csv_path.open("rb") as file:
        bids = read_bids(file.read(CSV_MAX + 1), manifest.lots)
    _preview(manifest, bids, show_amounts)
    if preview:
        return
    decided = authority_from(decision, now(), own=operator).decision
    aws = aws_from(endpoint_url, ca_bundle)
    content = make_bid(
        manifest,
        operator,
        bids,
        aws,
        journal=SealJournal(journal or default_journal()),
        when=now(),
    )
    write_atomic(out, content, mode=0o600)
    if upload:
        upload_bid(aws, buyer, content)
    digest = messages.bid_digest(content).hex()
    if as_json:
        emit_json(
            {
                "manifest": manifest.digest.hex(),
                "decision": decided.digest.hex(),
                "bid": digest,
                "size": len(content),
                "file": str(out),
                "uploaded": buyer.bids if upload else None,
            }
        )
    else:
        err().print(f"{out}: SHA-384 {digest}", markup=False)
        err().print(f"uploaded to {buyer.bids}" if upload else "not uploaded", markup=False)


def _preview(manifest: messages.Manifest, bids: Bids, show_amounts: bool) -> None:
    console = err()
    console.print(
        f"{manifest.auction}: bids on {bids.count} of {len(manifest.lots)} lots, {manifest.currency}",
        markup=False,
    )
    if bids.below_reserve:
        console.print(
            f"below the reserve, so without effect: {', '.join(bids.below_reserve[:20])}",
            style="yellow",
            markup=False,
        )
    table = Table("lot", "reserve", "amount" if show_amounts else "bid")
    for lot, amount in list(zip(manifest.lots, bids.amounts, strict=True))[:LOTS_SHOWN]:
        shown = str(amount) if show_amounts else "yes"
        table.add_row(lot.id, str(lot.reserve or "none"), shown if amount else "no bid")
    console.print(table)
