"""``verify policy make``: the policy of a decision, in the notation where it is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import json_option
from coattest_verify.cli.policy.making import DESCRIPTION, MadePolicy, made_document, make_policy
from coattest_verify.cli.policy.options import making_options
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.generate import policy_text

NOTATIONS: Mapping[str, Callable[[MadePolicy, Mapping[str, Any]], str]] = {
    "json": lambda made, _: json.dumps(made.document, indent=2),
    "canonical": lambda made, _: policy_text(made.document),
    "cloudformation": lambda made, _: snippets.cloudformation(made.document, DESCRIPTION),
    "terraform": lambda made, _: snippets.terraform(made.document, DESCRIPTION),
    "stack": lambda made, given: snippets.stack(
        made.document, DESCRIPTION, given["parent_roles"], given["encrypters"]
    ),
}


@click.command()
@making_options
@click.option(
    "--format",
    "notation",
    type=click.Choice(list(NOTATIONS)),
    default="json",
    show_default=True,
    help="stack: your whole CloudFormation stack, with a private bucket that the parent's role may read "
    "and nobody overwrites; "
    "cloudformation, terraform: the key alone.",
)
@json_option
def policy_make_command(**given: Any) -> None:
    """Print the policy for the decided releases."""
    if given["as_json"]:
        refuse_ignored(("notation",), "with --json")
    made = make_policy(given)
    if given["as_json"]:
        emit_json(made_document(made))
    else:
        click.echo(NOTATIONS[given["notation"]](made, given))
