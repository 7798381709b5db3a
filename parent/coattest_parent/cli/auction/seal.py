"""``auction seal``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.extras import need_extra
from coattest.files import read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import confirm_signing, err, expect_option, json_option, signing_key, utc_now
from coattest_parent.auction.courier import bid_digests
from coattest_parent.cli.auction.looking import grounds, known_buyers, look_at_key, looked_json, show_auction
from coattest_parent.cli.auction.options import binding_options
from coattest_parent.cli.auction.show import show_lots
from coattest_parent.cli.options import FILE, aws_from, aws_options
from coattest_verify.auction import messages
from coattest_verify.auction.bids import CSV_MAX
from coattest_verify.auction.buyers import load_auction_key, load_manifest, spki_der
from coattest_verify.auction.journal import SealJournal, default_journal
from coattest_verify.auction.sealing import SealPlan, plan_seal, sign_seal
from coattest_verify.cli.options import named_decision_options
from coattest_verify.quorum.decision import Decision


def parse_digests(values: tuple[str, ...]) -> dict[str, bytes]:
    """``NAME=HEX`` pairs; raises UsageError."""
    digests = {}
    for value in values:
        name, _, text = value.partition("=")
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            digest = b""
        if not name or len(digest) != messages.DIGEST or name in digests:
            raise UsageError("not NAME=SHA384-HEX, once per buyer", where=value[:120], code="bad-digest")
        digests[name] = digest
    return digests


@click.command("seal")
@binding_options
@signing_key(click.option("--auction-key", type=FILE, required=True, help="Your auction key."))
@click.option("--own-bid", type=FILE, required=True, help="The bid file that 'auction bid' wrote.")
@click.option(
    "--bid-digest",
    "given",
    multiple=True,
    help="NAME=SHA384 of a buyer's bid file, where there are several; given for all, none is fetched.",
)
@click.option(
    "--out", type=NEW_FILE, required=True, help="Where to write the seal, which you give to the service."
)
@click.option("--dry-run", is_flag=True, help="Only check and show everything; record and sign nothing.")
@expect_option
@aws_options
@named_decision_options
@json_option
def seal_command(
    *,
    manifest_path: Path,
    name: str,
    auction_key: Path,
    record_path: Path,
    known: tuple[str, ...],
    again: bool,
    own_bid: Path,
    given: tuple[str, ...],
    out: Path,
    dry_run: bool,
    expect: str | None,
    journal: Path | None,
    endpoint_url: str | None,
    ca_bundle: Path | None,
    as_json: bool,
    **decision: Any,
) -> None:
    """Seal an auction: sign for one set of bid files, for good.

    The seal binds you to this manifest, the decided image and these bid files. A different seal for the same
    manifest is refused from then on. --expect is the SHA-256 of what is signed, as --dry-run shows it.
    """
    manifest = load_manifest(manifest_path)
    chosen = parse_digests(given)
    if fetched := not {buyer.name for buyer in manifest.buyers} <= set(chosen):
        need_extra("aws")
    now = utc_now()
    key = load_auction_key(auction_key)
    found = grounds(
        decision, manifest, name=name, seal_key=spki_der(key.public_key()), record=record_path, now=now
    )
    own_file = read_whole(own_bid, CSV_MAX)
    if fetched:
        chosen = {name: messages.bid_digest(own_file), **chosen}
        aws = aws_from(endpoint_url, ca_bundle)
        look_at_key(aws, manifest, found)
        chosen = bid_digests(manifest, aws, chosen)
    record = SealJournal(journal or default_journal())
    plan = plan_seal(
        manifest,
        found.own,
        found.opening,
        bids=chosen,
        own_bid=own_file,
        check_certificate=found.check_certificate,
        journal=record,
        now=int(now.timestamp()),
        again=again,
        known=known_buyers(known, manifest, name),
    )
    _explain(plan, found.authority.decision)
    if not dry_run:
        confirm_signing(
            [("signs", f"{name} seals this auction with these bid files, for good")],
            subject="seal",
            digest=hashlib.sha256(plan.payload).hexdigest(),
            expected=expect,
        )
        write_atomic(out, sign_seal(plan, key, record))
    if as_json:
        emit_json(_json(plan, None if dry_run else out))
    elif not dry_run:
        err().print(f"{out}: sealed; recorded in {record.directory}")
        err().print("next: give it to the service, and keep your own bid file")


def _explain(plan: SealPlan, decision: Decision) -> None:
    """Show everything that the signature will bind. plan_seal has checked that the own bid is in it."""
    console = err()
    manifest = plan.manifest
    show_auction(manifest, plan.looked, plan.own, decision)
    show_lots(console, manifest)
    console.show_rows(
        ("buyer", "bid file (SHA-384)"),
        [
            (f"{name} (you)" if name == plan.own.name else name, digest.hex())
            for name, digest in messages.Seal.decode(plan.payload).bids
        ],
    )
    console.print("your own bid file is in this set")


def _json(plan: SealPlan, out: Path | None) -> dict[str, Any]:
    sealed = messages.Seal.decode(plan.payload)
    return {
        "manifest": sealed.manifest.hex(),
        "release": sealed.release.hex(),
        "image": sealed.image.hex(),
        "bids": {name: digest.hex() for name, digest in sealed.bids},
        "seal": plan.digest.hex(),
        "expect": f"sha256:{hashlib.sha256(plan.payload).hexdigest()}",
        "auction": plan.manifest.auction,
        "rule": plan.manifest.rule,
        "lots": len(plan.manifest.lots),
        "own_bid": dict(sealed.bids)[plan.own.name].hex(),
        "discloses": plan.disclosure,
        **looked_json(plan.manifest, plan.looked, plan.own),
        "file": str(out) if out else None,
    }
