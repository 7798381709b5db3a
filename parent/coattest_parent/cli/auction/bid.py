"""``auction bid``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.extras import need_extra
from coattest.files import read_bounded, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_enclave.protocol import canonical
from coattest_parent.auction.courier import upload_bid
from coattest_parent.auction.steps import look_before_bid, make_bid
from coattest_parent.cli.auction.looking import grounds, known_buyers, look_at_key, looked_json, show_auction
from coattest_parent.cli.auction.options import binding_options
from coattest_parent.cli.auction.show import LOTS_SHOWN, more_lots
from coattest_parent.cli.options import FILE, aws_from, aws_options
from coattest_verify.auction import messages
from coattest_verify.auction.bids import CSV_MAX, BadBids, Bids, read_bids
from coattest_verify.auction.buyers import load_own_key, parse_manifest
from coattest_verify.auction.journal import SealJournal, default_journal
from coattest_verify.cli.options import named_decision_options


@click.command("bid")
@binding_options
@click.option("--auction-key", type=FILE, required=True, help="Your auction key's public half (KEY.pub).")
@click.option("--bids", "csv_path", type=FILE, required=True, help="CSV file with the header lot,amount.")
@click.option(
    "--out", type=NEW_FILE, help="Where to write the encrypted bid file; keep it for 'auction seal'."
)
@click.option(
    "--upload/--no-upload",
    default=False,
    help="Upload the bid file to your place, where nothing is overwritten.",
)
@click.option(
    "--show-amounts",
    is_flag=True,
    help="Show the amounts, on a terminal only; with --json, include them.",
)
@click.option("--preview", is_flag=True, help="Only check and show everything; encrypt and upload nothing.")
@expect_option
@aws_options
@named_decision_options
@json_option
def bid_command(
    *,
    manifest_path: Path,
    name: str,
    auction_key: Path,
    record_path: Path,
    known: tuple[str, ...],
    again: bool,
    csv_path: Path,
    out: Path | None,
    upload: bool,
    show_amounts: bool,
    preview: bool,
    expect: str | None,
    journal: Path | None,
    endpoint_url: str | None,
    ca_bundle: Path | None,
    as_json: bool,
    **decision: Any,
) -> None:
    """Encrypt your bids for the decided enclave.

    Everything that 'auction seal' would refuse is refused here, before anything is encrypted. The bids open
    under your own seal only, in the decided image, and count in this auction only. --expect is the SHA-256 of
    the manifest, as --preview shows it.
    """
    if out is None and not preview:
        raise UsageError("no file to write the encrypted bids to", hint="--out FILE, or --preview")
    aws = None
    if not preview:
        need_extra("aws")
        aws = aws_from(endpoint_url, ca_bundle)
    content = read_bounded(manifest_path, canonical.SIZE_MAX)
    manifest = parse_manifest(content, str(manifest_path))
    bids = _read(csv_path, manifest, as_json)
    _preview(manifest, bids, show_amounts and not as_json)
    now = utc_now()
    found = grounds(
        decision, manifest, name=name, seal_key=load_own_key(auction_key), record=record_path, now=now
    )
    record = SealJournal(journal or default_journal())
    others = known_buyers(known, manifest, name)
    looked = look_before_bid(
        manifest,
        found.own,
        check_certificate=found.check_certificate,
        journal=record,
        when=now,
        again=again,
        known=others,
    )
    decided = found.authority.decision
    show_auction(manifest, looked, found.own, decided)
    digest = hashlib.sha256(content).hexdigest()
    summary = {
        **_summary(manifest, bids, show_amounts),
        **looked_json(manifest, looked, found.own),
        "release": decided.release_digest.hex(),
        "expect": f"sha256:{digest}",
    }
    if out is None or aws is None:
        if as_json:
            emit_json(summary)
        return
    summary["key_policy"] = look_at_key(aws, manifest, found)
    confirm_signing(
        [("binds", f"{name} bids in this auction"), ("rule", f"{manifest.rule}, {manifest.currency}")],
        subject="manifest",
        digest=digest,
        expected=expect,
    )
    file = make_bid(
        manifest,
        found.own,
        found.opening,
        bids,
        aws,
        check_certificate=found.check_certificate,
        journal=record,
        when=utc_now(),
        again=again,
        known=others,
    )
    write_atomic(out, file, mode=0o600)
    uploaded = (
        upload_bid(aws, messages.named_buyer(manifest, name), manifest.digest, file) if upload else None
    )
    bid = messages.bid_digest(file).hex()
    if as_json:
        emit_json({**summary, "bid": bid, "size": len(file), "file": str(out), "uploaded": uploaded})
    else:
        err().print(f"{out}: SHA-384 {bid}")
        err().print(f"uploaded to {uploaded}" if uploaded else "not uploaded")


def _read(path: Path, manifest: messages.Manifest, as_json: bool) -> Bids:
    """The bids of a CSV file; without --json every finding has its own line on stderr. Raises BadBids."""
    content = read_bounded(path, CSV_MAX)
    try:
        return read_bids(content, messages.LotList(manifest.lots))
    except BadBids as error:
        if as_json or len(error.findings) < 2:
            error.where = f"{path}: {error.where}" if error.where else str(path)
            raise
        for finding in error.findings:
            err().print(f"{path}: {finding.where}: {finding.detail}", style="red")
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
        named = zip(messages.LotList(manifest.lots), bids.amounts, strict=True)
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
        f"{manifest.auction}: bids on {bids.count} of {len(manifest.lots)} lots, {manifest.currency}"
    )
    if bids.below_reserve:
        console.print(
            f"below the reserve, so they cannot win: {', '.join(bids.below_reserve[:20])}", style="yellow"
        )
    rows = []
    shown_lots = messages.LotList(manifest.lots)[:LOTS_SHOWN]
    for lot, amount in zip(shown_lots, bids.amounts[:LOTS_SHOWN], strict=True):
        shown = str(amount) if show_amounts else "yes"
        rows.append((lot.id, str(lot.reserve or "none"), shown if amount else "no bid"))
    more = more_lots(len(manifest.lots), LOTS_SHOWN)
    console.show_rows(("lot", "reserve", "amount" if show_amounts else "bid"), rows, more=more)
