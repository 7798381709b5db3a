"""One question to the solver: is there a request of this class of callers that the policy grants?

Asked twice. First for a request that it perhaps grants: none is a proof. Then for one that it surely grants
and that AWS could receive; the evaluator must grant it too before it is reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Policy, PolicyStatement, Request, Ternary, assess
from coattest_verify.keypolicy.iam.actions import ATTESTATION
from coattest_verify.keypolicy.iam.callers import Caller
from coattest_verify.keypolicy.iam.evaluate import action_matches, principal_matches
from coattest_verify.keypolicy.iam.match import ascii_lower
from coattest_verify.keypolicy.iam.reading import Reading
from coattest_verify.keypolicy.prove import bounds
from coattest_verify.keypolicy.prove.bounds import Bounds
from coattest_verify.keypolicy.prove.identity import known
from coattest_verify.keypolicy.prove.present import of_its_key, placed
from coattest_verify.keypolicy.prove.requests import (
    ASSUMED,
    CALLER_KEYS,
    KINDS_KEYS,
    bound,
    in_full,
    likely_keys,
    real,
    resource_symbol,
    wishes,
)
from coattest_verify.keypolicy.prove.space import Space
from coattest_verify.keypolicy.prove.symbolic import statement_formula
from coattest_verify.keypolicy.prove.texts import Unsupported

CORRECTIONS = 40
"""Times that a model is corrected by the evaluator before the answer is "unknown"."""

WISHES_SECONDS = 0.5
"""Of the processor, for making one counterexample easy to read: on a busy machine it is the same one."""

PATIENCE = 4
"""Times as long may one wish take by the clock."""

TIMED_OUT = "timed out"
_REGISTER = "kms:RecipientAttestation:PCR"


@dataclass(frozen=True, slots=True)
class Granted:
    """A request that the policy grants, confirmed by the evaluator."""

    caller: Caller
    request: Request


@dataclass(slots=True)
class Search:
    """Questions about one policy, until a moment of ``time.monotonic``."""

    policy: Policy
    everybody: tuple[Caller, ...]
    key_arn: str | None
    until: float
    _resource: Any = field(init=False)
    _minds_caller: bool = field(init=False)
    _impossible: set[tuple[Any, ...]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._resource = resource_symbol(self.policy, self.key_arn)
        space = Space(self.policy)
        self._minds_caller = any(space.mentions(key) for key in KINDS_KEYS)

    def relevant(self, caller: Caller, action: str) -> list[tuple[int, PolicyStatement, Ternary]]:
        """The statements that may apply, by number, with whether they are about the caller."""
        found: list[tuple[int, PolicyStatement, Ternary]] = []
        for index, item in enumerate(self.policy.statements):
            if item.has_effect and action_matches(item, action):
                matches = principal_matches(item, caller.principal, Reading())
                if matches is not Ternary.NO:
                    found.append((index, item, matches))
        return found

    def ask(self, caller: Caller, action: str, extra: Any = None) -> Granted | str | None:
        """A confirmed request, None for none, or a text that says why it is not known.

        ``extra`` makes further constraints from a Space: what else the request must be.
        """
        mine = self.relevant(caller, action)
        if not any(item.allow for _, item, _ in mine):
            return None
        # What bounds the requests for one action and not those for another.
        carried = tuple(KMS.documented(key, action) for key in (f"{ATTESTATION}pcr0", *CALLER_KEYS))
        statements = tuple((index, matches) for index, _, matches in mine)
        question = (caller if self._minds_caller else caller.principal.kind, statements, carried, extra)
        if question in self._impossible:
            return None
        if time.monotonic() >= self.until:
            return TIMED_OUT
        try:
            answer = self._likely(caller, action, extra) or self._ask(caller, action, mine, extra)
        except Unsupported as error:
            return str(error)
        if answer is None:
            self._impossible.add(question)
        return answer

    def _likely(self, caller: Caller, action: str, extra: Any) -> Granted | None:
        """A confirmed request about one of the likeliest keys: any key at all takes the solver long."""
        if z3.is_string_value(self._resource):
            return None
        for key in likely_keys(self.policy):
            answer = replace(self, key_arn=key).ask(caller, action, extra)
            if isinstance(answer, Granted):
                return answer
        return None

    def _ask(
        self, caller: Caller, action: str, mine: Sequence[tuple[int, PolicyStatement, Ternary]], extra: Any
    ) -> Granted | str | None:
        space = Space(self.policy, known(caller))
        allows: list[Bounds] = []
        denies: list[Bounds] = []
        for _, item, matches in mine:
            formula = bounds.all_bounds([bounds.of(matches), statement_formula(space, item, self._resource)])
            (allows if item.allow else denies).append(formula)
        denied = bounds.any_bounds(denies) if denies else bounds.NEVER
        granted = bounds.all_bounds([bounds.any_bounds(allows), denied.opposite()])
        always = [
            *bound(space, caller, action, self.everybody, self._resource),
            *(of_its_key(space, self.key_arn) if self.key_arn else ()),
            *(extra(space) if extra else ()),
        ]
        model = self._solve([granted.perhaps, *always, *space.constraints()])
        if model is None or isinstance(model, str):
            return model
        answer = self._surely(caller, action, space, granted, always)
        if answer is None:
            more = real(space, caller, action, self._resource)
            likelier = self._solve([granted.perhaps, *always, *more, *space.constraints()])
            model = model if likelier is None or isinstance(likelier, str) else likelier
            answer = self._doubts(caller, action, space, model)
        return answer

    def _surely(
        self, caller: Caller, action: str, space: Space, granted: Bounds, always: list[Any]
    ) -> Granted | str | None:
        demands = [granted.surely, *always, *real(space, caller, action, self._resource)]
        for _ in range(CORRECTIONS):
            constraints = [*demands, *space.constraints()]
            model = self._solve(constraints)
            if model is None or isinstance(model, str):
                return model
            request = self._request(space, caller, action, model)
            if assess(self.policy, request).granted is Ternary.YES:
                return Granted(caller, self._readable(caller, action, space, constraints, request))
            corrections = space.corrections(model)
            if not corrections:
                return "the evaluator does not confirm the request that the solver found"
            demands += corrections
        return "the solver's requests and the evaluator do not meet"

    def _request(self, space: Space, caller: Caller, action: str, model: Any) -> Request:
        """The request of a model. An example's key is in the Region and account that the request has."""
        found = in_full(space, caller, action, self._resource, model)
        if self.key_arn or not z3.is_string_value(self._resource):
            return found
        return replace(found, resource=placed(found.resource, found.lowered()))

    def _readable(
        self, caller: Caller, action: str, space: Space, constraints: list[Any], request: Request
    ) -> Request:
        """The same counterexample with as many wishes as can be had in the time for it."""
        until = time.process_time() + WISHES_SECONDS
        wanted = list(constraints)
        for wish in wishes(space, caller, self._resource):
            left = min((until - time.process_time()) * PATIENCE, self.until - time.monotonic())
            if left <= 0:
                break
            # A new one each time: push() of one that has solved has no time-out, and can take minutes.
            solver = z3.SolverFor("QF_S")
            solver.set("timeout", max(1, int(left * 1000)))
            solver.add(*wanted, wish)
            if solver.check() != z3.sat:
                continue
            better = self._request(space, caller, action, solver.model())
            wanted.append(wish)
            if assess(self.policy, better).granted is Ternary.YES:
                request = better
        return request

    def _doubts(self, caller: Caller, action: str, space: Space, model: Any) -> str:
        """Why a request that is perhaps granted is not surely granted."""
        request = self._request(space, caller, action, model)
        doubts = assess(self.policy, request).doubts
        if doubts:
            return "; ".join(str(doubt) for doubt in doubts[:3])
        if caller.principal.kind != "AWS" and request.context.get("aws:PrincipalArn"):
            return (
                f"{caller.label}: AWS says that every signed request has aws:PrincipalArn, not what it is "
                "for a service; write a condition on aws:PrincipalIsAWSService"
            )
        odd = sorted(key for key in request.context if not KMS.documented(key, action))
        if odd:
            return (
                f"{', '.join(odd)}: AWS does not say that a request for {action} has this condition key; "
                "use one that AWS documents for it"
            )
        registers = [name for index in range(3) if not request.context.get(name := f"{_REGISTER}{index}")]
        if 0 < len(registers) < 3 or (len(registers) == 3 and _attested(request)):
            return (
                f"AWS does not say that a document always has PCR0, PCR1 and PCR2, and none without "
                f"{', '.join(registers)} is kept out; compare each of them by a condition of its own"
            )
        for key, value in ASSUMED.items():
            if space.mentions(key):
                return (
                    f"the policy looks at {KMS.spelled(key)}, which is {value} by assumption, and a request "
                    "with another one is not kept out; leave the condition out"
                )
        return f"a request of {caller.label} for {action} is not decided: {_shown(request)}"

    def _solve(self, constraints: Sequence[Any]) -> Any:
        """A model, None for none, or a text that says why there is no answer."""
        left = self.until - time.monotonic()
        if left <= 0:
            return TIMED_OUT
        solver = z3.SolverFor("QF_S")
        # Half of what is left, so that one hard case leaves time for the others.
        solver.set("timeout", max(1, int(left * 500)))
        solver.add(*constraints)
        result = solver.check()
        if result == z3.sat:
            return solver.model()
        return None if result == z3.unsat else f"the solver gave up: {solver.reason_unknown()}"


def _attested(request: Request) -> bool:
    return any(ascii_lower(key).startswith(ATTESTATION) for key in request.context)


def _shown(request: Request) -> str:
    return ", ".join(f"{key}={'|'.join(values)}" for key, values in sorted(request.context.items()))[:300]
