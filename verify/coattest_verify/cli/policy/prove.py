"""``verify policy prove``: any key policy against the decided tuples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, needs_extra, out, step_progress, utc_now
from coattest_verify.cli.options import EXISTING_FILE, decisions_from, decisions_options
from coattest_verify.cli.policy.options import managing_options, read_policy
from coattest_verify.keypolicy.generate import check_tuple
from coattest_verify.keypolicy.iam import PolicyError
from coattest_verify.keypolicy.iam.names import KEY_ARN, PRINCIPAL_ARN, refuse_placeholder
from coattest_verify.keypolicy.roles import Roles, roles_of

if TYPE_CHECKING:
    from coattest_verify.keypolicy.prove import Counterexample, GoalResult
    from coattest_verify.quorum.decision import Decision

MEANINGS = {
    "plaintext": "existing ciphertext becomes plaintext only for a decided enclave, administrators included",
    "power": "only the administrators hand out or change power over the key",
    "encryption": "only the encrypters make ciphertext under the key",
    "decryption": "each decided enclave can decrypt",
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
@decisions_options(required=False)
@click.option("--member", help="Your name in quorum.toml: your own agreeing statement must be there.")
@json_option
def policy_prove_command(**given: Any) -> int:
    """Prove or refute any key policy.

    The questions: does FILE let only decided enclaves decrypt, only administrators hand out or change power,
    and only encrypters encrypt? And can the decided enclaves decrypt? Exit code 0: proved; 1: refuted, with
    a request that gets in; 3: neither.
    """
    from coattest_verify.keypolicy import prove as prover  # noqa: PLC0415

    now = utc_now()
    tuples, decisions = _decided(given, now)
    try:
        policy = read_policy(given["file"])
    except PolicyError as error:
        if error.code != "unknown-operator":
            raise
        results = tuple(
            prover.GoalResult(goal, prover.Status.UNKNOWN, reason=f"{error}; use an operator of IAM's guide")
            for goal in prover.GOALS
        )
        return _report(given, results, notes=(), roles=_given_roles(given))
    roles = _given_roles(given) or roles_of(policy, decisions, now=now) or Roles((), ())
    question = prover.ProofQuestion(
        tuples, roles.administrators, roles.encrypters, key_arn=_key(given["key_arn"]), now=now
    )
    with step_progress() as progress:
        progress.add_task("asking the solver")
        results = prover.prove(policy, question)
    return _report(given, results, notes=prover.policy_notes(policy), roles=roles)


def _given_roles(given: Mapping[str, Any]) -> Roles | None:
    """Who may do what by the options; None when none is given. Raises UsageError."""
    administrators = (*given["administrators"], *filter(None, [given["break_glass"]]))
    for name in (*administrators, *given["encrypters"]):
        if not PRINCIPAL_ARN.fullmatch(name):
            refuse_placeholder(name, "--administrator or --encrypter")
            raise UsageError(f"{name!r} is not the ARN of a user, role or session", where="--administrator")
    if not administrators and not given["encrypters"]:
        return None
    return Roles(administrators, tuple(given["encrypters"]))


def _key(arn: str | None) -> str | None:
    if arn is not None and not KEY_ARN.fullmatch(arn):
        raise UsageError(f"{arn!r} is not the ARN of a KMS key", where="--key")
    if arn is not None and ":key/mrk-" in arn:
        # KMS Developer Guide, "Multi-Region keys": such ids begin so. Each replica has a policy of its own.
        raise FoundFalse(
            "a multi-Region key, for which no policy proves anything", where=arn, code="multi-region"
        )
    return arn


def _report(
    given: Mapping[str, Any], results: Sequence[GoalResult], *, notes: Sequence[str], roles: Roles | None
) -> int:
    from coattest_verify.keypolicy.prove import ASSUMPTIONS  # noqa: PLC0415

    statuses = {item.status.value for item in results}
    code = 1 if "refuted" in statuses else 3 if "unknown" in statuses else 0
    source = "options" if _given_roles(given) else "policy" if roles and any(astuple(roles)) else "nobody"
    allowed = {
        "administrators": list(roles.administrators) if roles else [],
        "encrypters": list(roles.encrypters) if roles else [],
    }
    if given["as_json"]:
        emit_json(
            {
                "goals": [_json(item) for item in results],
                "assumptions": list(ASSUMPTIONS),
                "notes": list(notes),
                "roles": {**allowed, "from": source},
            }
        )
        return code
    for item in results:
        out().print(f"{item.status.value:8} {MEANINGS[item.goal]}")
        if item.counterexample:
            out().print(_told(item.counterexample))
        if item.reason:
            out().print(f"         {item.reason}")
    for note in notes:
        out().print(f"note     {note}")
    for line in _roles_told(allowed, source):
        err().print(line)
    err().print("Assumed: " + "; ".join(ASSUMPTIONS) + ".")
    if code == 1:
        raise FoundFalse("the policy is refuted", where=str(given["file"]), code="refuted")
    if code:
        raise EnvironmentFailure("neither proved nor refuted", where=str(given["file"]), code="unproved")
    return 0


def _roles_told(allowed: Mapping[str, Sequence[str]], source: str) -> Iterator[str]:
    """Whom the answers allow to do what, and who says so."""
    for kind, option in (("administrators", "--administrator"), ("encrypters", "--encrypter")):
        if not allowed[kind]:
            yield f"No {option} was given: nobody was allowed to be one."
        elif source == "policy":
            yield f"The policy itself names its {kind}: {', '.join(allowed[kind])}. Are they yours?"
        else:
            yield f"Allowed as {kind}: {', '.join(allowed[kind])}."


def _decided(
    given: Mapping[str, Any], now: datetime
) -> tuple[tuple[tuple[str, str, str], ...], tuple[Decision, ...]]:
    """The decided tuples, and the decisions themselves where they are the caller's own."""
    if given["tuples"]:
        found = []
        for item in given["tuples"]:
            if not _TUPLE.fullmatch(item):
                raise UsageError("give PCR0,PCR1,PCR2, each 96 lower-case hex digits", where="--tuple")
            first, second, third = item.split(",")
            check_tuple({0: first, 1: second, 2: third}, "--tuple")
            found.append((first, second, third))
        return tuple(found), ()
    if not given["member"]:
        raise UsageError(
            "give --tuple, or --member for the tuples of your decision", where=str(given["file"])
        )
    decisions = decisions_from(given, now=now, own=given["member"])
    return tuple((item.pcrs[0], item.pcrs[1], item.pcrs[2]) for item in decisions), decisions


def _told(found: Counterexample) -> str:
    lines = [
        f"         {found.caller} calls {found.action}",
        f"         as {found.arn} on {found.resource}",
        f"         allowed by {', '.join(found.allowed_by)}; the request has",
    ]
    lines += [f"           {key} = {', '.join(values)}" for key, values in sorted(found.context.items())]
    return "\n".join(lines)


def _json(item: GoalResult) -> dict[str, Any]:
    return {**asdict(item), "means": MEANINGS[item.goal], "status": item.status.value}
