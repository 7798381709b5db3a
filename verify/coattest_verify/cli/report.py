"""``verify report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_verify.cli.options import (
    EXISTING_FILE,
    SigningKey,
    decisions_from,
    decisions_options,
    signing_options,
)
from coattest_verify.cli.policy.options import read_policy
from coattest_verify.keypolicy.live import images, requires_instance
from coattest_verify.keypolicy.report import BuyerReport, sign_report
from coattest_verify.quorum.authority import evidence_from
from coattest_verify.rebuild.answer import read_members


@click.command("report")
@signing_options
@click.option(
    "--kms-key", required=True, help="Full ARN of your key, with the key policy for the decided release."
)
@click.option(
    "--policy",
    type=EXISTING_FILE,
    required=True,
    help="The key's policy as KMS has it: aws kms get-key-policy --query Policy --output text.",
)
@click.option("--bids", required=True, help="Where your bid files will be: s3://bucket/prefix/.")
@click.option("--parent-role", "role", required=True, help="The service's role that your stack lets in.")
@click.option("--out", "target", type=NEW_FILE, required=True, help="The report to give to the service.")
@expect_option
@decisions_options(required=True)
@json_option
def report_command(
    *,
    signing: SigningKey,
    kms_key: str,
    policy: Path,
    bids: str,
    role: str,
    target: Path,
    expect: str | None,
    attestations: Path,
    as_json: bool,
    **decision: Any,
) -> None:
    """Sign a report on your own stack for the service: key, bids, role, and admitted decisions.

    Make it after the key's policy is in place, which must admit them: an upgrade starts when every buyer
    reports its decision. It says whether the policy requires one instance (PCR4).
    --expect is the SHA-256 of what the report says, as the command shows it.
    """
    now = utc_now()
    decision["attestations"] = attestations
    decided = decisions_from(decision, now=now, own=signing.member)
    digests = tuple(sorted({item.release_digest.hex() for item in decided}))
    live = read_policy(policy)
    lacking = [item.release for item in decided if item.pcrs[0] not in images(live)]
    if lacking:
        raise FoundFalse(
            f"the policy does not admit release {', '.join(lacking)}",
            where=str(policy),
            hint="update the key first: verify policy make",
            code="policy-first",
        )
    made = BuyerReport(signing.member, kms_key, bids, role, digests, requires_instance(live))
    with evidence_from(decision) as evidence:
        signer = signing.signer(evidence, read_members(evidence, attestations))
    confirm_signing(
        [
            ("signs", f"{signing.member} reports to the service on its own stack"),
            ("KMS key", made.kms),
            ("bids", made.bids),
            ("parent role", made.role),
            *([("requires", "one instance (PCR4)")] if made.one_instance else []),
            *[("admits", f"release {item.release}, digest {item.release_digest.hex()}") for item in decided],
        ],
        subject="report",
        digest=made.sha256,
        expected=expect,
    )
    write_atomic(target, sign_report(signer, made) + b"\n")
    if as_json:
        emit_json(made.to_json())
    else:
        err().print(f"report of {signing.member} in {target}: give it to the service")
