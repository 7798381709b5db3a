"""A policy's statements as formulas over what a request may carry: the twin of ``iam.evaluate``.

"Does not match" is written as "matches the complement": the solver meets a string's memberships in one
derivative, while negated memberships and disequalities of long strings take it seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Condition, PolicyStatement, Quantifier, Ternary
from coattest_verify.keypolicy.iam.actions import ATTESTATION
from coattest_verify.keypolicy.iam.conditions import (
    WITH_VARIABLES,
    compare_value,
    mistyped,
    negated,
    odd_register,
    text_of,
    true_when_absent,
    without_wildcards,
)
from coattest_verify.keypolicy.iam.evaluate import one_resource, permits_by_matching
from coattest_verify.keypolicy.iam.match import (
    Part,
    Variable,
    Wild,
    ascii_lower,
    completed,
    parts_of,
    segments,
    without_variables,
)
from coattest_verify.keypolicy.iam.reading import Reading, some
from coattest_verify.keypolicy.prove import bounds, texts
from coattest_verify.keypolicy.prove.bounds import ALWAYS, NEVER, OPEN, Bounds, either, exact, given
from coattest_verify.keypolicy.prove.ranges import family
from coattest_verify.keypolicy.prove.space import Slot, Space, key_name
from coattest_verify.keypolicy.prove.texts import constant


def statement_formula(space: Space, found: PolicyStatement, resource: Any) -> Bounds:
    """The formula of a statement with effect whose action matches, its principal left out."""
    listed = bounds.any_bounds([_resource(space, found, text, resource) for text in found.resources])
    parts = [listed.opposite() if found.not_resource else listed]
    parts += [condition_formula(space, item) for item in found.conditions]
    return bounds.all_bounds(parts)


def _resource(space: Space, found: PolicyStatement, written: str, resource: Any) -> Bounds:
    parts = parts_of(written, space.policy.variables)
    if any(isinstance(part, Variable) for part in parts):
        condition = Condition(Quantifier.NONE, "ArnLike", False, "resource", (written,))
        return exact(space.abstract(resource, condition, parts))
    if written == "*":
        return ALWAYS
    fixed = without_variables(parts)
    full = completed(fixed)
    crosses = [texts.crossing_regex(fixed), texts.crossing_regex(full)]
    surely = [texts.segments_regex(full), *(crosses if permits_by_matching(found) else [])]
    perhaps = [texts.segments_regex(full), *crosses, texts.glob_regex(fixed), texts.glob_regex(full)]

    def answer(text: str) -> Ternary:
        return one_resource(found, written, text, Reading(variables=space.policy.variables))

    return Bounds(
        space.matches(resource, z3.Union(surely), lambda text: answer(text).surely),
        space.matches(resource, z3.Union(perhaps), lambda text: answer(text).perhaps),
    )


def condition_formula(space: Space, found: Condition) -> Bounds:
    """The formula of one condition."""
    slots = space.slots(found.key)
    tests = _tests(space, found, slots)
    answer = _with_values(found, [slot.present for slot in slots], tests)
    if all(z3.is_false(slot.empty) for slot in slots):
        return answer
    # AWS's pages differ on whether a key with an empty value is there (``conditions.holds``).
    filled = [z3.And(slot.present, z3.Not(slot.empty)) for slot in slots]
    return bounds.agreed(answer, _with_values(found, filled, tests))


def _tests(space: Space, found: Condition, slots: Sequence[Slot]) -> list[Bounds]:
    """What the condition says of each value, were it the only one."""
    if found.operator == "Null" or _undefined(found):
        return [OPEN for _ in slots]
    of_nothing = _matches(space, found, z3.StringVal(""))
    tests = [either(slot.empty, of_nothing, _matches(space, found, slot.value)) for slot in slots]
    return [test.opposite() for test in tests] if negated(found.operator) else tests


def _undefined(found: Condition) -> bool:
    """Whether AWS does not say what the operator does with a value of this key."""
    return mistyped(found) or (found.quantifier is Quantifier.NONE and KMS.multivalued(found.key))


def _with_values(found: Condition, there: Sequence[Any], tests: Sequence[Bounds]) -> Bounds:
    """The formula of a condition, given which of a key's values are there."""
    present = z3.Or(*there)
    if found.operator == "Null":
        wanted = {ascii_lower(value) for value in found.values}
        return exact(z3.Or(z3.And("true" in wanted, z3.Not(present)), z3.And("false" in wanted, present)))
    absent = exact(z3.BoolVal(true_when_absent(found)))
    if _undefined(found):
        return either(present, OPEN, absent)
    pairs = list(zip(there, tests, strict=True))
    if found.quantifier is Quantifier.ANY:
        answer = bounds.any_bounds([given(is_there, test) for is_there, test in pairs])
    else:
        answer = bounds.all_bounds([either(is_there, test, ALWAYS) for is_there, test in pairs])
    if found.quantifier is Quantifier.NONE and len(there) > 1:
        several = z3.Or(*(z3.And(one, other) for one, other in itertools.combinations(there, 2)))
        answer = either(several, OPEN, answer)
    return either(present, answer, absent)


def _matches(space: Space, found: Condition, value: Any) -> Bounds:
    enabled = space.policy.variables and found.operator.startswith(WITH_VARIABLES)
    read = [parts_of(text, enabled, not without_wildcards(found.operator)) for text in found.values]
    fixed = [parts for parts in read if not any(isinstance(part, Variable) for part in parts)]
    plain = [without_variables(parts) for parts in fixed if not odd_register(found, parts)]
    items = [_with_variables(space, found, parts, value) for parts in read if parts not in fixed]
    items += [OPEN for parts in fixed if odd_register(found, parts)]
    return bounds.any_bounds([*items, *([_one_of_them(space, found, plain, value)] if plain else [])])


def _one_of_them(
    space: Space, found: Condition, patterns: Sequence[tuple[str | Wild, ...]], value: Any
) -> Bounds:
    """Whether a value matches one of the patterns, which have no variables."""

    def answer(text: str) -> Ternary:
        return some(compare_value(found, pattern, text) for pattern in patterns)

    if family(found):
        choices = space.choices(found.key)
        if choices is not None:
            return exact(space.one_of(value, [text for text in choices if answer(text) is Ternary.YES]))
        return bounds.any_bounds([exact(space.abstract(value, found, pattern)) for pattern in patterns])
    register = key_name(found.key).startswith(ATTESTATION)
    if without_wildcards(found.operator) and found.operator != "Bool":
        fold = found.operator.endswith("IgnoreCase")
        listed = [text_of(pattern) for pattern in patterns]
        if register or not fold:
            return exact(space.one_of(value, [ascii_lower(text) if fold else text for text in listed]))
    surely, perhaps = zip(*(_expressions(found, pattern) for pattern in patterns), strict=True)
    if all(one is other for one, other in zip(surely, perhaps, strict=True)):
        return exact(space.matches(value, z3.Union(surely), lambda text: answer(text).surely))
    decided = [item for item in surely if item is not None]
    return Bounds(
        space.matches(value, z3.Union(decided), lambda text: answer(text).surely)
        if decided
        else z3.BoolVal(False),
        space.matches(value, z3.Union(perhaps), lambda text: answer(text).perhaps),
    )


def _expressions(found: Condition, pattern: tuple[str | Wild, ...]) -> tuple[Any, Any]:
    """What surely and what perhaps matches a pattern; None for nothing."""
    if found.operator.endswith("IgnoreCase"):
        return texts.case_regex(text_of(pattern)), texts.open_case_regex(text_of(pattern))
    if found.operator == "Bool":
        return (texts.case_regex(text_of(pattern)),) * 2
    if not found.operator.startswith("Arn"):
        return (texts.glob_regex(pattern),) * 2
    whole = len(segments(pattern)) == 6
    if key_name(found.key).startswith(ATTESTATION):
        # No register has a colon, so none has six parts; to find that out takes the solver minutes.
        return (texts.NOTHING, texts.NOTHING) if whole else (None, texts.glob_regex(pattern))
    by_segments = texts.segments_regex(pattern)
    return (by_segments, by_segments) if whole else (None, z3.Union([by_segments, texts.glob_regex(pattern)]))


def _with_variables(space: Space, found: Condition, parts: tuple[Part, ...], value: Any) -> Bounds:
    """A comparison with the variables' own symbols.

    Only an equality has a formula; for a pattern there is one for what a match needs.
    """
    made: list[Any] = [z3.StringVal("")]
    needed: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            made.append(constant(part))
        elif isinstance(part, Wild):
            made.append(z3.FreshConst(z3.StringSort(), "wild"))
            if part is Wild.ONE:
                space.require(z3.Length(made[-1]) == 1)
        else:
            only, one = _only(space.slots(part.key))
            if part.default is None:
                needed.append(only)
            made.append(one if part.default is None else z3.If(only, one, constant(part.default)))
    resolved = z3.And(*needed)
    equal = value == z3.Concat(*made)
    fold = found.operator.endswith("IgnoreCase")
    if without_wildcards(found.operator) and not fold:
        match = exact(equal)
    else:
        symbol = space.abstract(value, found, parts)
        match = exact(symbol)
        incomplete = found.operator.startswith("Arn") and len(segments(without_variables(parts))) < 6
        if not (fold or incomplete):
            space.require(z3.Implies(z3.And(resolved, symbol), equal))
    if odd_register(found, parts):
        match = OPEN
    return either(resolved, match, OPEN if negated(found.operator) else NEVER)


def _only(slots: Iterable[Slot]) -> tuple[Any, Any]:
    """Whether a key has exactly one value, and which."""
    listed = list(slots)
    exactly = [
        z3.And(slot.present, *(z3.Not(other.present) for other in listed if other is not slot))
        for slot in listed
    ]
    value = listed[0].value
    for alone, slot in zip(exactly[1:], listed[1:], strict=True):
        value = z3.If(alone, slot.value, value)
    return z3.Or(*exactly), value
