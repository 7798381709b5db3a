"""``auction bid``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coattest.errors import UsageError
from coattest.extras import need_extra
from coattest.files import read_bounded, write_atomic
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, utc_now
from coattest_enclave.protocol import messages
from coattest_parent.auction.courier import upload_bid
from coattest_parent.auction.steps import make_bid
from coattest_parent.cli.auction.options import buyer_option, journal_option, manifest_option
from coattest_parent.cli.auction.show import LOTS_SHOWN
from coattest_parent.cli.options import FILE, NEW_FILE, aws_from, aws_options
from coattest_verify.auction.bids import CSV_MAX, BadBids, Bids, buyer_of, read_bids
from coattest_verify.auction.buyers import load_manifest
from coattest_verify.auction.journal import SealJournal, default_journal
from coattest_verify.cli.options import named_decision_options
from coattest_verify.quorum.authority import authority_from


@click.command("bid")
@manifest_option
@buyer_option
@click.option("--bids", "csv_path", type=FILE, required=True, help="CSV file with the header lot,amount.")
@click.option(
    "--out", type=NEW_FILE, help="Where to write the encrypted bid file; keep it for 'auction seal'."
)
@click.option("--upload/--no-upload", default=False, help="Upload the bid file to the manifest's URI.")
@click.option(
    "--show-amounts",
    is_flag=True,
    help="Show the amounts, on a terminal only; with --json, include them.",
)
@click.option("--preview", is_flag=True, help="Only check and show the bids; encrypt and upload nothing.")
@journal_option
@aws_options
@named_decision_options
@json_option
def bid_command(
    *,
    manifest_path: Path,
    name: str,
    csv_path: Path,
    out: Path | None,
    upload: bool,
    show_amounts: bool,
    preview: bool,
    journal: Path | None,
    endpoint_url: str | None,
    ca_bundle: Path | None,
    as_json: bool,
    **decision: Any,
) -> None:
    """Encrypt your bids for the decided enclave.

    Nobody else can open them, and they count in this auction only.
    """
    if out is None and not preview:
        raise UsageError("no file to write the encrypted bids to", hint="--out FILE, or --preview")
    if not preview:
        need_extra("aws")
    manifest = load_manifest(manifest_path)
    buyer = buyer_of(manifest, name)
    bids = _read(csv_path, manifest, as_json)
    _preview(manifest, bids, show_amounts and not as_json)
    summary = _summary(manifest, bids, show_amounts)
    if out is None or preview:
        if as_json:
            emit_json(summary)
        return
    decided = authority_from(decision, utc_now(), own=name).decision
    aws = aws_from(endpoint_url, ca_bundle)
    content = make_bid(
        manifest,
        name,
        bids,
        aws,
        journal=SealJournal(journal or default_journal()),
        when=utc_now(),
    )
    write_atomic(out, content, mode=0o600)
    if upload:
        upload_bid(aws, buyer, content)
    digest = messages.bid_digest(content).hex()
    if as_json:
        emit_json(
            {
                **summary,
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


def _read(path: Path, manifest: messages.Manifest, as_json: bool) -> Bids:
    """The bids of a CSV file; without --json every finding has its own line on stderr. Raises BadBids."""
    content = read_bounded(path, CSV_MAX)
    try:
        return read_bids(content, manifest.lots)
    except BadBids as error:
        if as_json or len(error.findings) < 2:
            raise
        for finding in error.findings:
            err().print(f"{path}: {finding.where}: {finding.detail}", style="red", markup=False)
        first = f", the first {len(error.findings)} above" if error.count > len(error.findings) else ""
        raise BadBids(f"{error.count} findings{first}", where=str(path)) from None


def _summary(manifest: messages.Manifest, bids: Bids, show_amounts: bool) -> dict[str, Any]:
    """What the preview shows, as JSON, with the amounts if asked for."""
    summary: dict[str, Any] = {
        "manifest": manifest.digest.hex(),
        "auction": manifest.auction,
        "currency": manifest.currency,
        "lots": len(manifest.lots),
        "bids": bids.count,
        "below_reserve": list(bids.below_reserve),
    }
    if show_amounts:
        named = zip(manifest.lots, bids.amounts, strict=True)
        summary["amounts"] = {lot.id: amount or None for lot, amount in named}
    return summary


def _preview(manifest: messages.Manifest, bids: Bids, show_amounts: bool) -> None:
    console = err()
    if show_amounts and not console.is_terminal:
        raise UsageError(
            "amounts are shown on a terminal only, and standard error is not one",
            hint="leave out --show-amounts",
        )
    console.print(
        f"{manifest.auction}: bids on {bids.count} of {len(manifest.lots)} lots, {manifest.currency}",
        markup=False,
    )
    if bids.below_reserve:
        console.print(
            f"below the reserve, so they cannot win: {', '.join(bids.below_reserve[:20])}",
            style="yellow",
            markup=False,
        )
    table = Table("lot", "reserve", "amount" if show_amounts else "bid")
    for lot, amount in zip(manifest.lots[:LOTS_SHOWN], bids.amounts[:LOTS_SHOWN], strict=True):
        shown = str(amount) if show_amounts else "yes"
        table.add_row(lot.id, str(lot.reserve or "none"), shown if amount else "no bid")
    if len(manifest.lots) > LOTS_SHOWN:
        table.caption = f"and {len(manifest.lots) - LOTS_SHOWN} more lots"
    console.print(table)
