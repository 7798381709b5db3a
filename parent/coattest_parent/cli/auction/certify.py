"""``auction certify``."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import confirm_signing, err, expect_option, json_option, signing_key, utc_now
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.cli.auction.options import member_option
from coattest_parent.cli.options import FILE
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import buyer_json, load_auction_public_key
from coattest_verify.auction.certify import MAX_LIFE, Life, Own, certify_buyer_key
from coattest_verify.quorum.members.file import utc
from coattest_verify.signatures.keys import load_signer

SKEW = timedelta(minutes=5)
"""How far somebody's clock may be behind this one when it checks a new certificate."""


def _record(own: Own, certificate: bytes) -> messages.Buyer:
    try:
        return messages.Buyer(own.name, own.seal_key, certificate, own.kms, own.bids)
    except MessageError as error:
        raise UsageError(f"not a buyer's record: {error}", code="bad-buyer-record") from None


@click.command("certify")
@signing_key(click.option("--key", "quorum_key", type=FILE, required=True, help="The member's quorum key."))
@member_option
@click.option("--auction-key", type=FILE, required=True, help="The auction key's public half (KEY.pub).")
@click.option("--kms-key", required=True, help="Full ARN of the KMS key that protects your bids.")
@click.option(
    "--bids", required=True, help="The place of your bid files, which ends in a slash: s3://bucket/prefix/."
)
@click.option(
    "--days",
    type=click.IntRange(1, MAX_LIFE.days),
    default=90,
    show_default=True,
    help="Days for which the certificate is valid; an auction must be over before its end.",
)
@click.option(
    "--out", type=NEW_FILE, required=True, help="Where to write the record, which you give to the service."
)
@expect_option
@json_option
def certify_command(
    *,
    quorum_key: Path,
    member: str,
    auction_key: Path,
    kms_key: str,
    bids: str,
    days: int,
    out: Path,
    expect: str | None,
    as_json: bool,
) -> None:
    """Certify your auction key, KMS key and place of bid files, and write your record.

    The certificate is signed with your quorum key and ends. The record goes into the auction's manifest; keep
    a copy for 'auction bid' and 'auction seal'. --expect is the auction key's digest, as auction keygen shows
    it.
    """
    public = load_auction_public_key(auction_key)
    now = utc_now().replace(microsecond=0)
    # Others check it by their own clocks.
    life = Life(now - SKEW, now + timedelta(days=days) - SKEW)
    own = Own(member, public, kms_key, bids)
    _record(own, b"-")  # what could refuse the record comes before the signature
    signer = load_signer(quorum_key)
    confirm_signing(
        [
            ("signs", f"{member} bids with this auction key, only with this KMS key and at this place"),
            ("KMS key", kms_key),
            ("bids", bids),
            ("until", utc(life.ends)),
        ],
        subject="auction key",
        digest=hashlib.sha256(public).hexdigest(),
        expected=expect,
    )
    record = buyer_json(_record(own, certify_buyer_key(signer, own, life)))
    write_atomic(out, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")
    if as_json:
        emit_json(record)
    else:
        err().print(f"record of {member} in {out}: give it to the service, and keep a copy")
