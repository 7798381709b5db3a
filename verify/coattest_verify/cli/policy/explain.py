"""``verify policy explain``: who may do what under the policy of a decision."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import click

from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out
from coattest_build.formats.measure import pcr3
from coattest_verify.cli.policy.making import (
    EXAMPLE_KEY,
    MadePolicy,
    context_rules,
    further,
    made_document,
    make_policy,
)
from coattest_verify.cli.policy.options import making_options
from coattest_verify.keypolicy.explain import Line, explain_policy


@click.command()
@making_options
@json_option
def policy_explain_command(**given: Any) -> None:
    """Show who may do what under the policy.

    An evaluator of IAM policies answers.
    """
    made = make_policy(given)
    principals = {
        **_named("parent", given["parent_roles"]),
        **_named("administrator", made.administrators),
        **_named("break-glass", filter(None, [made.break_glass])),
        **_named("encrypter", given["encrypters"]),
        "anyone else": f"arn:{given['partition']}:iam::{made.account}:role/anyone-else",
    }
    enclaves: dict[str, Mapping[int, str]] = {
        name: {**decision.pcrs, 3: pcr3(role), **further(given)}
        for decision in made.decisions
        for name, role in _named(f"release {decision.release}", given["parent_roles"]).items()
    }
    enclaves["another image"] = {0: "11" * 48, 1: "22" * 48, 2: "33" * 48}
    rules = context_rules(given)
    lines = explain_policy(
        made.parsed,
        principals=principals,
        enclaves=enclaves,
        encryption_context={**dict.fromkeys(rules.any_value, "00" * 48), **rules.pairs},
        image_key=rules.image_key,
        key_arn=f"arn:{given['partition']}:kms:eu-central-1:{made.account}:{EXAMPLE_KEY}",
    )
    if given["as_json"]:
        emit_json(made_document(made, explanation=[asdict(line) for line in lines]))
        return
    _show(made, principals, lines)
    err().print(
        "Administrators cannot decrypt without a PutKeyPolicy, which CloudTrail logs. "
        "Another account's role needs its own IAM policy too.",
    )


def _show(made: MadePolicy, principals: Mapping[str, str], lines: Iterable[Line]) -> None:
    decided = [
        (f"release {decision.release}", f"decision {decision.digest.hex()}") for decision in made.decisions
    ]
    out().show_facts([*principals.items(), *decided])
    for (who, enclave), group in itertools.groupby(lines, key=lambda line: (line.who, line.enclave)):
        out().print()
        out().show_facts(
            [
                (
                    line.operation,
                    f"{'open' if line.allowed is None else 'yes' if line.allowed else 'no'}, "
                    f"by {', '.join(line.by) or 'no statement'}",
                )
                for line in group
            ],
            title=f"{who}, {enclave}",
        )


def _named(kind: str, arns: Iterable[str]) -> dict[str, str]:
    """Each ARN by a name: its kind, with the ARN itself where there are several."""
    each = list(dict.fromkeys(arns))
    return {kind: each[0]} if len(each) == 1 else {f"{kind} {arn}": arn for arn in each}
