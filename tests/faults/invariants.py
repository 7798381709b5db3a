"""What must hold after each opening, whatever was done to it: shared by the harnesses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coattest_parent.auction.publish import Sealed
from coattest_verify.auction import messages
from support.auction.auctions import outcomes

CODES = {0, 1, 2, 3}
"""The documented exit codes (docs/operations.md)."""

DOCUMENTED = {
    1: {"bad-frame", "too-large", "bad-manifest", "bad-seal", "bad-bid-digest", "bad-bid", "kms-denied"}
    | {"missing-bid", "wrong-result", "wrong-object", "unverified-result"},
    3: {"kms-failed", "clock", "internal", "enclave-failed", "bad-frame", "unreachable", "timeout", "stopped"}
    | {"size-changed", "efbig", "address-in-use", "no-credentials"},
}
"""The documented codes by exit code; AWS's own codes beside them, see AWS_CODES."""

AWS_CODES = {"AccessDenied", "RequestTimeTooSkewed", "ExpiredToken", "InternalError", "SlowDown"} | {
    "InternalFailure", "PreconditionFailed", "SignatureDoesNotMatch", "400", "403", "412", "500", "503"
}  # fmt: skip

LINE_MAX = 700
"""Characters of an error's one line."""


class Broken(AssertionError):
    """Something that must hold does not."""


def require(holds: object, what: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(what)


@dataclass(frozen=True)
class Outcome:
    """How one opening ended: its exit code (negative: a signal's number), its answer, its seconds."""

    code: int
    answer: dict[str, Any]
    seconds: float

    @property
    def kind(self) -> str:
        """In a word: ``killed``, ``result`` or the code (AWS's own where there is one)."""
        if self.code < 0:
            return "killed"
        named = self.answer.get("service_code") or self.answer.get("code", "?")
        return "result" if self.code == 0 else str(named)


def documented(outcome: Outcome) -> None:
    """A result, or one line with a code that docs/operations.md has for that exit code."""
    require(outcome.code in CODES, f"exit {outcome.code}: {outcome.answer}")
    if outcome.code:
        code, text = outcome.kind, outcome.answer["error"]
        known = DOCUMENTED.get(outcome.code, set()) | (AWS_CODES if outcome.code == 3 else set())
        require(code in known, f"an undocumented code: {outcome.code} {code}: {text}")
        require(text and "\n" not in text and len(text) < LINE_MAX, f"not one line: {text!r}")


def nothing_half_written(out: Path) -> None:
    """No temporary file is left beside the result's place."""
    left = [path.name for path in out.parent.glob(f".{out.name}.*")]
    require(not left, f"left behind: {left}")


def result_in(sealed: Sealed, content: bytes) -> bytes:
    """The result in what is at one of its places; it must be a whole one of this auction."""
    file = sealed.parse_result(content)
    require(file, "what is at the result's place is not this auction's result")
    assert file
    return file.result


def one_right_result(results: Sequence[bytes], right: messages.Outcomes) -> None:
    """Every result that was seen anywhere is the same, and it is the right one."""
    require(len(set(results)) == 1, f"{len(set(results))} different results of one seal")
    require(messages.Result.decode(results[0]).lots == right, "not the right result")


def right_outcomes(amounts: Mapping[str, Sequence[int]], rule: str) -> messages.Outcomes:
    """The outcomes by the words of the rule, written without the enclave's code; no lot has a tie."""
    priced = rule == messages.SECOND_PRICE
    pairs: list[tuple[str, messages.Outcome]] = []
    for lot in range(len(next(iter(amounts.values())))):
        offers = sorted((amounts[name][lot], name) for name in amounts)
        pairs.append((f"lot-{lot + 1}", messages.Won(offers[-1][1], offers[-2][0] if priced else None)))
    return outcomes(sorted(amounts), pairs, priced=priced)


def losing_amounts(amounts: Mapping[str, Sequence[int]]) -> set[bytes]:
    """Each buyer's first and last amount as text: what may stand nowhere but in a second price's result."""
    return {str(of[place]).encode() for of in amounts.values() for place in (0, -1)}


def no_secret(words: bytes, secrets: Iterable[bytes], where: str) -> None:
    """None of the secrets is in what was written."""
    require(not any(secret in words for secret in secrets), f"a secret in {where}")


def events_only(log: bytes) -> None:
    """Every whole line is an event; the last one may have been cut by a kill."""
    for line in log.rpartition(b"\n")[0].splitlines():
        require(set(json.loads(line)) >= {"time", "event"}, f"not an event: {line!r}")


class FaultRun(Protocol):
    """Openings under one seed's faults."""

    @property
    def schedule(self) -> Any:
        """What happens: a dataclass."""
        ...

    @property
    def outcomes(self) -> Sequence[Any]:
        """How each opening ended."""
        ...

    def go(self) -> None:
        """All of it; raises Broken."""
        ...


def broken_by(run: FaultRun) -> str:
    """Do a run; what broke in it, "" for nothing."""
    try:
        run.go()
    except Broken as broken:
        return str(broken)
    return ""


def describe(run: FaultRun) -> str:
    """What a failing seed did, for a person: the schedule and how each opening ended."""
    schedule = json.dumps(dataclasses.asdict(run.schedule))
    return "\n".join([schedule, *(f"  {outcome}" for outcome in run.outcomes)])
