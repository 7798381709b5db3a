"""``verify quorum``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest_verify.cli.options import clock, decision_options, json_option
from coattest_verify.decision import Outcome, decide
from coattest_verify.shell import emit_json, err, out


@click.command()
@decision_options
@click.option("--own", help="Also require this operator's own agreeing statement.")
@json_option
def quorum(*, attestations: Path, root: bytes | None, profile: str, own: str | None, as_json: bool) -> int:
    """Decide, and say who agrees, who dissents, what was refused and why.

    Exit code 0: decided. 1: not decided.
    """
    outcome = decide(attestations, root=root, profile=profile, now=clock(), own=own)
    if as_json:
        emit_json(outcome.to_json())
    else:
        show(outcome)
    return 0 if outcome.decision else 1


def show(outcome: Outcome) -> None:
    """The outcome as tables on stdout; reasons and warnings on stderr."""
    answers = Table("operator", "answer", Column("detail", overflow="fold"))
    for answer in outcome.answers:
        answers.add_row(answer.operator, Text("agrees", style="green"), Text(answer.detail))
    for answer in outcome.dissent:
        answers.add_row(answer.operator, Text("dissents", style="red"), Text(answer.detail))
    for name in outcome.missing:
        answers.add_row(name, Text("missing", style="yellow"), "")
    if answers.row_count:
        out().print(answers)
    if outcome.refused:
        refused = Table(Column("file that does not count", overflow="fold"), "reason", "detail")
        for item in outcome.refused:
            # File names are chosen by whoever wrote the file: no markup, no control characters.
            refused.add_row(Text(ascii(item.file)[1:-1]), item.reason, Text(item.detail))
        out().print(refused)
    for warning in outcome.warnings:
        err().print(f"warning: {warning}", style="yellow", markup=False)
    for reason in outcome.reasons:
        err().print(f"no decision: {reason}", style="red", markup=False)
    if outcome.decision is not None:
        decision = outcome.decision
        registers = [(f"PCR{index}", value) for index, value in sorted(decision.pcrs.items())]
        rows = [
            ("decided", f"release {decision.release}, {decision.architecture}, profile {decision.profile}"),
            *registers,
            ("image", f"{decision.image_size} bytes, SHA-384 {decision.image_sha384}"),
            ("agreed", ", ".join(decision.agreed)),
            ("decision", decision.digest.hex()),
        ]
        for name, value in rows:
            # Not a table: digests are for copying, so they are never folded or cut.
            out().print(f"{name:8}  {value}", markup=False)
