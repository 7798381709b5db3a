"""``verify policy --prove``: any key policy against the decided tuples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.extras import need_extra
from coattest.jsontext import emit_json
from coattest.shell import err, out, utc_now
from coattest_verify.cli.options import decision_from
from coattest_verify.keypolicy.generate import check_tuple
from coattest_verify.keypolicy.iam import PolicyError, parse_policy
from coattest_verify.keypolicy.iam.parse import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from coattest_verify.keypolicy.prove import Counterexample, Finding

GOALS = {
    "plaintext": "existing ciphertext becomes plaintext only for a decided enclave, administrators included",
    "power": "only the administrators hand out power over the key",
    "encryption": "only the encrypters make data keys and encrypt",
}
_TUPLE = re.compile(r"[0-9a-f]{96}(?:,[0-9a-f]{96}){2}")


class NotProved(FoundFalse):
    """A goal is refuted by a request that the policy allows."""

    default_code = "refuted"


class NotKnown(EnvironmentFailure):
    """Neither proved nor refuted."""

    default_code = "unknown"


def prove_file(given: Mapping[str, Any]) -> int:
    """Answer for ``--prove FILE``. Exit 0: all proved. Raises NotProved (1) and NotKnown (3) without
    ``--json``.
    """
    need_extra("prove")
    from coattest_verify.keypolicy import prove as prover  # noqa: PLC0415

    question = prover.Question(
        tuples=_tuples(given),
        administrators=(*given["administrators"], *filter(None, [given["break_glass"]])),
        encrypters=tuple(given["encrypters"]),
        key_arn=given["key_arn"],
    )
    try:
        findings = prover.prove(parse_policy(_read(given["prove_file"])), question)
    except PolicyError as error:
        if error.code != "unknown-member":
            raise
        findings = tuple(prover.Finding(goal, prover.Status.UNKNOWN, reason=str(error)) for goal in GOALS)
    code = _code(findings)
    if given["as_json"]:
        emit_json({"findings": [_json(item) for item in findings], "assumptions": list(prover.ASSUMPTIONS)})
        return code
    for item in findings:
        out().print(f"{item.status.value:8} {GOALS[item.goal]}", markup=False)
        if item.counterexample:
            out().print(_told(item.counterexample), markup=False)
        if item.reason:
            out().print(f"         {item.reason}", markup=False)
    err().print("Assumed: " + "; ".join(prover.ASSUMPTIONS) + ".", markup=False)
    if code == 1:
        raise NotProved("the policy does not hold", where=str(given["prove_file"]))
    if code:
        raise NotKnown("not proved and not refuted", where=str(given["prove_file"]))
    return 0


def _tuples(given: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    if given["tuples"]:
        found = []
        for item in given["tuples"]:
            if not _TUPLE.fullmatch(item):
                raise UsageError("PCR0,PCR1,PCR2: three times 96 lower-case hex digits", where="--tuple")
            first, second, third = item.split(",")
            check_tuple({0: first, 1: second, 2: third}, "--tuple")
            found.append((first, second, third))
        return tuple(found)
    if not given["member"]:
        raise UsageError("give --tuple, or --member for the tuples of your decision", where="--prove")
    now = utc_now()
    decisions = [
        decision_from({**given, "attestations": folder}, now=now, own=given["member"])
        for folder in (given["attestations"], *given["also_attestations"])
    ]
    return tuple((item.pcrs[0], item.pcrs[1], item.pcrs[2]) for item in decisions)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


def _code(findings: tuple[Finding, ...]) -> int:
    statuses = {item.status.value for item in findings}
    return 1 if "refuted" in statuses else 3 if "unknown" in statuses else 0


def _told(found: Counterexample) -> str:
    lines = [
        f"         {found.caller} calls {found.action}",
        f"         as {found.arn} on {found.resource}",
        f"         allowed by {', '.join(found.allowed_by)}; the request has",
    ]
    lines += [f"           {key} = {', '.join(values)}" for key, values in sorted(found.context.items())]
    return "\n".join(lines)


def _json(item: Finding) -> dict[str, Any]:
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
