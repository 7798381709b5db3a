"""``verify policy prove``: any key policy against the decided tuples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, needs_extra, out, utc_now
from coattest_verify.cli.options import EXISTING_FILE, decision_options
from coattest_verify.cli.policy.making import decisions_of
from coattest_verify.cli.policy.options import also_attestations_option, managing_options
from coattest_verify.keypolicy.generate import check_tuple
from coattest_verify.keypolicy.iam import PolicyError, parse_policy
from coattest_verify.keypolicy.iam.parse import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from coattest_verify.keypolicy.prove import Counterexample, GoalResult

GOALS = {
    "plaintext": "existing ciphertext becomes plaintext only for a decided enclave, administrators included",
    "power": "only the administrators hand out power over the key",
    "encryption": "only the encrypters make data keys and encrypt",
}
_TUPLE = re.compile(r"[0-9a-f]{96}(?:,[0-9a-f]{96}){2}")


@needs_extra("prove")
@click.command()
@click.argument("file", metavar="FILE", type=EXISTING_FILE)
@click.option(
    "--tuple",
    "tuples",
    multiple=True,
    metavar="PCR0,PCR1,PCR2",
    help="A decided tuple; repeatable. Default: those of your decision, with --member.",
)
@managing_options
@click.option("--key", "key_arn", metavar="ARN", help="The key that the policy is on.")
@decision_options
@click.option("--member", help="Your name in quorum.toml: your own agreeing statement must be there.")
@also_attestations_option
@json_option
def policy_prove_command(**given: Any) -> int:
    """Prove or refute any key policy.

    The questions: does FILE let only decided enclaves decrypt, only administrators hand out power, and only
    encrypters encrypt? Exit code 0: proved; 1: refuted, with a request that gets in; 3: neither.
    """
    from coattest_verify.keypolicy import prove as prover  # noqa: PLC0415

    question = prover.ProofQuestion(
        tuples=_tuples(given),
        administrators=(*given["administrators"], *filter(None, [given["break_glass"]])),
        encrypters=tuple(given["encrypters"]),
        key_arn=given["key_arn"],
    )
    try:
        results = prover.prove(parse_policy(_read(given["file"])), question)
    except PolicyError as error:
        if error.code != "unknown-operator":
            raise
        results = tuple(prover.GoalResult(goal, prover.Status.UNKNOWN, reason=str(error)) for goal in GOALS)
    code = _exit_code(results)
    if given["as_json"]:
        emit_json({"goals": [_json(item) for item in results], "assumptions": list(prover.ASSUMPTIONS)})
        return code
    for item in results:
        out().print(f"{item.status.value:8} {GOALS[item.goal]}", markup=False)
        if item.counterexample:
            out().print(_told(item.counterexample), markup=False)
        if item.reason:
            out().print(f"         {item.reason}", markup=False)
    err().print("Assumed: " + "; ".join(prover.ASSUMPTIONS) + ".", markup=False)
    if code == 1:
        raise FoundFalse("the policy is refuted", where=str(given["file"]), code="refuted")
    if code:
        raise EnvironmentFailure("neither proved nor refuted", where=str(given["file"]), code="unproved")
    return 0


def _tuples(given: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    if given["tuples"]:
        found = []
        for item in given["tuples"]:
            if not _TUPLE.fullmatch(item):
                raise UsageError("give PCR0,PCR1,PCR2, each 96 lower-case hex digits", where="--tuple")
            first, second, third = item.split(",")
            check_tuple({0: first, 1: second, 2: third}, "--tuple")
            found.append((first, second, third))
        return tuple(found)
    if not given["member"]:
        raise UsageError(
            "give --tuple, or --member for the tuples of your decision", where=str(given["file"])
        )
    decisions = decisions_of(given, now=utc_now())
    return tuple((item.pcrs[0], item.pcrs[1], item.pcrs[2]) for item in decisions)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


def _exit_code(results: tuple[GoalResult, ...]) -> int:
    statuses = {item.status.value for item in results}
    return 1 if "refuted" in statuses else 3 if "unknown" in statuses else 0


def _told(found: Counterexample) -> str:
    lines = [
        f"         {found.caller} calls {found.action}",
        f"         as {found.arn} on {found.resource}",
        f"         allowed by {', '.join(found.allowed_by)}; the request has",
    ]
    lines += [f"           {key} = {', '.join(values)}" for key, values in sorted(found.context.items())]
    return "\n".join(lines)


def _json(item: GoalResult) -> dict[str, Any]:
    example = item.counterexample
    return {
        "goal": item.goal,
        "means": GOALS[item.goal],
        "status": item.status.value,
        "reason": item.reason,
        "counterexample": None
        if example is None
        else {
            "caller": example.caller,
            "arn": example.arn,
            "action": example.action,
            "resource": example.resource,
            "context": {key: list(values) for key, values in sorted(example.context.items())},
            "allowed_by": list(example.allowed_by),
        },
    }
