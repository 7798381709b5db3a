"""``auction withdraw``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from coattest.errors import Rejected, UsageError
from coattest.files import write_new
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_parent.cli.options import FILE
from coattest_verify.auction.buyers import load_buyer
from coattest_verify.auction.certify import check_buyer_certificate
from coattest_verify.auction.withdrawal import Withdrawal, sign_withdrawal
from coattest_verify.cli.options import SigningKey, attestations_option, read_once, signing_options
from coattest_verify.quorum.members.file import utc
from coattest_verify.rebuild.answer import read_members


@click.command("withdraw")
@signing_options
@click.option(
    "--record", "record_path", type=FILE, required=True, help="The record with the certificate to withdraw."
)
@attestations_option
@expect_option
@json_option
def withdraw_command(
    *, signing: SigningKey, record_path: Path, attestations: Path, expect: str | None, as_json: bool
) -> None:
    """Withdraw your certificate before it ends.

    Nobody who has the attestations bids or seals with it any more. What is sealed stays sealed. --expect is
    the SHA-256 of the certificate's content.
    """
    buyer = load_buyer(record_path)
    if buyer.name != signing.member:
        raise UsageError(
            f"the record of {buyer.name}",
            where=str(record_path),
            hint="a member withdraws its own",
            code="bad-buyer-record",
        )
    with read_once(attestations) as evidence:
        members = read_members(evidence, attestations)
        signer = signing.signer(evidence, members)
    try:
        certified = check_buyer_certificate(buyer, members)
    except Rejected as error:
        raise UsageError(error.what, where=str(record_path), code="bad-buyer-record") from None
    withdrawal = Withdrawal(signing.member, certified.sha256, utc_now())
    confirm_signing(
        [
            ("signs", f"{signing.member} WITHDRAWS this certificate: nobody is to bid or seal with it"),
            ("auction key", hashlib.sha256(buyer.key).hexdigest()),
            ("KMS key", buyer.kms),
            ("bids", buyer.bids),
            ("until", utc(certified.life.ends)),
        ],
        subject="certificate",
        digest=certified.sha256,
        expected=expect,
    )
    target = attestations / withdrawal.file_name
    new = write_new(target, sign_withdrawal(withdrawal, signer))
    if as_json:
        emit_json({"file": str(target), "certificate": certified.sha256, "new": new})
    else:
        err().print(f"{target}: {'withdrawn' if new else 'was withdrawn before'}")
