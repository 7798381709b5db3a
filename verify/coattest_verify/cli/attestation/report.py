"""How ``verify attestation`` shows verdicts: one document, many, and as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from coattest.console import Cell
from coattest.findings import Finding
from coattest.shell import err, out
from coattest.text import printable
from coattest_verify.attestation import Verdict
from coattest_verify.cli.attestation.causes import likely_causes

ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Item:
    """One file: its document, when it is verified, and what is wrong with the file itself."""

    path: Path
    document: bytes
    at: datetime
    finding: Finding | None = None


def document_report(item: Item, verdict: Verdict) -> dict[str, Any]:
    """One document's JSON: the verdict, the file, and the codes of all findings."""
    found = list(dict.fromkeys(finding.code for finding in verdict.findings))
    return {
        **verdict.to_json(),
        "file": item.path.name,
        "sha256": hashlib.sha256(item.document).hexdigest() if item.document else None,
        "code": found[0] if found else None,
        "codes": found,
    }


def show_documents(
    items: Sequence[Item], verdicts: Sequence[Verdict], skipped: Sequence[str], *, passed: str = ACCEPTED
) -> None:
    """Print a line per document and every finding on stdout; what was tolerated or skipped on stderr.

    ``passed`` is the word for a document that passed.
    """
    rows: list[tuple[Cell, ...]] = []
    for item, verdict in zip(items, verdicts, strict=True):
        mode = made = "?"
        state = ("refused", "red")
        if verdict.ok:
            mode = "debug" if verdict.document.debug else "prod"
            made = verdict.document.timestamp.isoformat(timespec="seconds")
            state = (passed, "green")
        rows.append((state, mode, made, item.path.name))
    console = out()
    console.show_lines([("verdict", "mode", "made at", "document"), *rows])
    for item, verdict in zip(items, verdicts, strict=True):
        for finding in verdict.findings:
            console.print(Text(printable(f"{item.path.name}: {finding}")))
        for notice in verdict.notices:
            err().print(Text(printable(f"note: {item.path.name}: {notice}"), "yellow"))
    for name in skipped:
        err().print(Text(f"skipped, not a document: {printable(name)}"))


def show_document(item: Item, verdict: Verdict, *, at: bool) -> None:
    """Print one document: its fields when it passed, every finding when it did not.

    ``at`` is whether the time was given.
    """
    console = out()
    if verdict.ok:
        console.print(Text("accepted", "green"), Text(f"at {item.at.isoformat()} under {verdict.root.name}"))
        console.show_facts(_lines(item, verdict))
    else:
        console.print(Text("refused", "red"), Text(f"at {item.at.isoformat()} under {verdict.root.name}"))
        for finding in verdict.findings:
            console.print(Text(f"  {printable(str(finding))}"))
        for cause in likely_causes(verdict.findings, option="--root", at=at):
            err().print(f"likely cause: {cause}")
    for notice in verdict.notices:
        err().print(Text(f"note: {printable(str(notice))}", "yellow"))


def _lines(item: Item, verdict: Verdict) -> list[tuple[str, str]]:
    document = {**verdict.document.to_json(), "debug": "yes" if verdict.document.debug else "no"}
    pcrs = document.pop("pcrs")
    zero = [name for name, value in pcrs.items() if not int(value, 16)]
    lines = [(name, "null" if value is None else str(value) or "empty") for name, value in document.items()]
    lines += [(name, value) for name, value in pcrs.items() if name not in zero]
    lines += [("zero", " ".join(zero) or "none")]
    expires = verdict.chain_expires
    return [
        *lines,
        ("chain until", expires.isoformat() if expires else "?"),
        ("sha256", hashlib.sha256(item.document).hexdigest()),
        ("root sha256", verdict.root.sha256.hex()),
    ]
