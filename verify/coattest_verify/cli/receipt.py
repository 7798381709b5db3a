"""``verify receipt``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse
from coattest.files import read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE, refuse_ignored
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.attestation.profiles import root_for
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest
from coattest_verify.auction.certify import certificate_check
from coattest_verify.auction.outcomes import outcomes_json, show_outcomes
from coattest_verify.auction.page import receipt_page
from coattest_verify.auction.receipt import ReceiptVerdict, receipt_time, verify_receipt
from coattest_verify.cli.attestation.causes import likely_causes
from coattest_verify.cli.options import EXISTING_FILE, decision_options
from coattest_verify.quorum.authority import authority_from

RESULT_MAX = 64 * 1024 * 1024
"""Bytes of a result file; a result of 1,000,000 lots is about 28 MB."""


@click.command("receipt")
@click.argument("result", type=EXISTING_FILE)
@click.option(
    "--manifest", "manifest_path", type=EXISTING_FILE, required=True, help="The manifest that was sealed."
)
@decision_options
@click.option(
    "--html",
    "page",
    type=NEW_FILE,
    help="Also write the verdict as an HTML page, which checks the signatures again in a browser.",
)
@json_option
def receipt_command(
    *, result: Path, manifest_path: Path, page: Path | None, as_json: bool, **decision: Any
) -> int:
    """Check an auction's RESULT against its receipt.

    It must be made by the decided code, on the sealed bids. The decision is recomputed for the time of the
    receipt, so that an archived receipt verifies with the attestations of its time.
    """
    refuse_ignored(("fresh",), "for a receipt, which is judged at its own time")
    manifest = load_manifest(manifest_path)
    content = read_whole(result, RESULT_MAX)
    now = utc_now()
    authority = authority_from(decision, _decided_at(content, manifest, now), warn=False)
    verdict = verify_receipt(
        content,
        manifest.encode(),
        authority.decision,
        root=root_for(authority.decision.profile),
        check_certificate=certificate_check(authority),
        now=now,
    )
    if page:
        text = receipt_page(
            verdict,
            result_file=content,
            manifest=manifest,
            authority=authority,
            now=now,
            names=(str(result), str(manifest_path)),
        )
        write_atomic(page, text.encode())
        err().print(f"{page}: for you to read; it proves nothing to anybody else")
    if as_json:
        emit_json(_json(verdict, manifest, authority.decision.digest.hex()))
        return 0 if verdict.ok else 1
    if not verdict.ok or verdict.result is None:
        _show_checks(verdict)
        for finding in verdict.findings:
            err().print(f"{finding.code}: {finding.where}: {finding.detail}", style="red")
        count = len(verdict.findings)
        raise FoundFalse(
            f"the result does not verify: {count} finding{'s' if count != 1 else ''}",
            where=str(result),
            hint=next(likely_causes(verdict.findings, option="--profile"), None),
            code="receipt",
        )
    show_outcomes(out(), verdict.result)
    _show_checks(verdict)
    err().show_facts(
        [
            ("manifest", manifest.digest.hex()),
            ("decision", authority.decision.digest.hex()),
            ("sealed by", ", ".join(verdict.sealed_by)),
        ]
    )
    if verdict.time:
        when = verdict.time.isoformat().replace("+00:00", "Z")
        err().print(f"verified: decided by {verdict.module_id} at {when}")
    if authority.decision.profile == "local":
        err().print("SIMULATOR: the local profile's root attests nothing", style="bold yellow")
    return 0


def _show_checks(verdict: ReceiptVerdict) -> None:
    err().show_facts(
        ((check.outcome, "green" if check.outcome == "ok" else "red"), check.says) for check in verdict.checks
    )


def _decided_at(content: bytes, manifest: messages.Manifest, now: datetime) -> datetime:
    """The time at which the decision must hold: the receipt's own if it is in the sealed window, else now.

    It is not verified yet and need not be: a receipt whose document does not verify fails anyway.
    """
    time = receipt_time(content)
    if time is None or time > now or not manifest.closes <= time.timestamp() <= manifest.publish_by:
        return now
    return time


def _json(verdict: ReceiptVerdict, manifest: messages.Manifest, decision: str) -> dict[str, Any]:
    result = verdict.result
    return {
        "verified": verdict.ok,
        "findings": [finding.to_json() for finding in verdict.findings],
        "checks": [{"check": check.name, "outcome": check.outcome} for check in verdict.checks],
        "manifest": manifest.digest.hex(),
        "decision": decision,
        "auction": manifest.auction,
        "currency": manifest.currency,
        "rule": manifest.rule,
        "lots": outcomes_json(result) if result and verdict.ok else None,
        "module_id": verdict.module_id,
        "time": verdict.time.isoformat() if verdict.time else None,
        "sealed_by": list(verdict.sealed_by),
    }
