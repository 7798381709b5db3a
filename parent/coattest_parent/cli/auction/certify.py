"""``auction certify``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, signing_key
from coattest_enclave.protocol import messages
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.cli.auction.options import member_option
from coattest_parent.cli.options import FILE, NEW_FILE
from coattest_verify.auction.buyers import BuyerRecord, load_auction_public_key
from coattest_verify.auction.certify import certify_buyer_key
from coattest_verify.signatures.keys import Signer, load_signer


def certified_record(signer: Signer, member: str, auction_key: bytes, kms_key: str, bids: str) -> BuyerRecord:
    """The buyer's record of an auction key (SPKI, DER), with its certificate signed by the member's quorum
    key; raises UsageError.
    """
    certificate = certify_buyer_key(signer, member, auction_key, kms_key)
    try:
        return BuyerRecord(messages.Buyer(member, auction_key, certificate, kms_key, bids))
    except MessageError as error:
        raise UsageError(f"not a buyer's record: {error}", code="bad-buyer-record") from None


@click.command("certify")
@signing_key(click.option("--key", "quorum_key", type=FILE, required=True, help="The member's quorum key."))
@member_option
@click.option("--auction-key", type=FILE, required=True, help="The auction key's public half (KEY.pub).")
@click.option("--kms-key", required=True, help="Full ARN of the KMS key that protects your bids.")
@click.option("--bids", required=True, help="Where your bid file will be: s3://bucket/key.")
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
    out: Path,
    expect: str | None,
    as_json: bool,
) -> None:
    """Certify your auction key and KMS key, and write your record.

    The certificate is signed with your quorum key. The record goes into the auction's manifest. --expect is
    the auction key's digest, as auction keygen shows it.
    """
    public = load_auction_public_key(auction_key)
    signer = load_signer(quorum_key)
    confirm_signing(
        [
            ("signs", f"{member} bids with this auction key, and only with this KMS key"),
            ("KMS key", kms_key),
            ("bids", bids),
        ],
        subject="auction key",
        digest=hashlib.sha256(public).hexdigest(),
        expected=expect,
    )
    record = certified_record(signer, member, public, kms_key, bids).to_json()
    write_atomic(out, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")
    if as_json:
        emit_json(record)
    else:
        err().print(f"record of {member} in {out}: give it to the service", markup=False)
