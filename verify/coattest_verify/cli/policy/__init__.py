"""``verify policy``: one module per verb; ``options`` and ``making`` are what they share."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup

VERBS = {
    "apply": "coattest_verify.cli.policy.apply:policy_apply_command",
    "check": "coattest_verify.cli.policy.check:policy_check_command",
    "explain": "coattest_verify.cli.policy.explain:policy_explain_command",
    "make": "coattest_verify.cli.policy.make:policy_make_command",
    "prove": "coattest_verify.cli.policy.prove:policy_prove_command",
}


@click.group(cls=LazyGroup, lazy=VERBS)
def policy_command() -> None:
    """Make, apply, check and prove a KMS key policy.

    Under it only decided enclaves decrypt. Administrators manage the key; they cannot decrypt without a
    PutKeyPolicy, which CloudTrail logs.
    """
