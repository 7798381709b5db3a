"""A policy's statements as formulas over what a request may carry: the twin of ``iam.evaluate``.

For each condition key a request has some values, at most as many as can matter: from any set of values that
satisfies the conditions on a key, one witness for each condition is enough, so their number bounds the
slots. Values that are compared as numbers, times or addresses are one of finitely many (``ranges``). What has
no formula (a pattern with variables in it) is a free symbol, which makes "proved" sound; what the solver
makes of it is then compared with the evaluator, and corrected for that value (``Space.corrections``).

"Does not match" is written as "matches the complement": the solver meets a string's memberships in one
derivative, while negated memberships and disequalities of long strings take it seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Condition, Policy, PolicyStatement, Quantifier, Verdict
from coattest_verify.keypolicy.iam.actions import ATTESTATION, CONTEXT, CONTEXT_KEYS
from coattest_verify.keypolicy.iam.conditions import (
    WITH_VARIABLES,
    compare,
    mistyped,
    negated,
    odd_register,
    text_of,
    without_wildcards,
)
from coattest_verify.keypolicy.iam.evaluate import one_resource, permits_by_matching
from coattest_verify.keypolicy.iam.match import (
    Part,
    Variable,
    Wild,
    completed,
    parts_of,
    resolve,
    same_but_case,
    segments,
)
from coattest_verify.keypolicy.iam.reading import Doubts, some
from coattest_verify.keypolicy.prove import bounds, texts
from coattest_verify.keypolicy.prove.bounds import ALWAYS, NEVER, OPEN, Bounds, either, exact, given
from coattest_verify.keypolicy.prove.ranges import family, representatives
from coattest_verify.keypolicy.prove.texts import constant


@dataclass(frozen=True, slots=True)
class Slot:
    """One possible value of a key."""

    present: Any
    value: Any


@dataclass(frozen=True, slots=True)
class FreeSymbol:
    """A comparison that has no formula: the symbol in its place, and what it compares."""

    symbol: Any
    value: Any
    condition: Condition
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """An expression, and the same as a test of a text. ``listed`` are its texts where they are few."""

    expression: Any
    test: Callable[[str], bool]
    listed: frozenset[str] | None = None


def _memberships(
    value: Any, members: Mapping[Any, Membership], *, choices: Sequence[str] | None, register: bool
) -> list[Any]:
    """What a value's memberships say of each other and of the value.

    The value is one of the texts that occur, where each answer is known, or another one, where the solver has
    to find it: texts that are nearly the same take it too long, and patterns of many stars.
    """
    texts_that_occur = sorted(set(choices or ()).union(*(item.listed or () for item in members.values())))
    found: list[Any] = []
    equal = [z3.Bool(f"equal#{value}#{index}") for index in range(len(texts_that_occur))]
    for symbol, text in zip(equal, texts_that_occur, strict=True):
        found.append(z3.Implies(symbol, value == constant(text)))
        found += [z3.Implies(symbol, member == item.test(text)) for member, item in members.items()]
    if choices is not None:
        return [*found, z3.Or(*equal)]
    another = z3.Not(z3.Or(*equal)) if equal else z3.BoolVal(True)
    rest = [texts.REGISTER_VALUE] if register else []
    if texts_that_occur:
        rest.append(z3.Complement(texts.union([texts.literal(text) for text in texts_that_occur])))
    if rest and all(item.listed is not None for item in members.values()) and not z3.is_string_value(value):
        found.append(z3.Implies(another, z3.InRe(value, texts.intersection(rest))))
    elif rest:
        found += [z3.Implies(another, z3.InRe(value, item)) for item in rest]
    for member, item in members.items():
        if item.listed is not None:
            found.append(z3.Implies(another, z3.Not(member)))
            continue
        found.append(z3.Implies(z3.And(another, member), z3.InRe(value, item.expression)))
        outside = z3.Complement(item.expression)
        found.append(z3.Implies(z3.And(another, z3.Not(member)), z3.InRe(value, outside)))
    return found


@dataclass(slots=True)
class Space:
    """The symbols of one question: slots for each key, free symbols for what has no formula.

    ``fixed`` are keys with one value in every request. ``values`` gives every key that many slots, for a
    comparison with the evaluator request by request.
    """

    policy: Policy
    fixed: Mapping[str, str] = field(default_factory=dict)
    values: int = 0
    free: list[FreeSymbol] = field(default_factory=list)
    _slots: dict[str, tuple[Slot, ...]] = field(init=False, default_factory=dict)
    _members: dict[int, tuple[Any, dict[Any, Membership]]] = field(init=False, default_factory=dict)
    _conditions: dict[str, list[Condition]] = field(init=False, default_factory=dict)
    _sizes: dict[str, int] = field(init=False, default_factory=dict)
    _more: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        for statement in self.policy.statements:
            for condition in statement.conditions:
                self._conditions.setdefault(key_name(condition.key), []).append(condition)
        counts = Counter({key: len(items) for key, items in self._conditions.items()})
        # A variable stands for a key's only value, so whether there is a second one matters too.
        counts.update(dict.fromkeys(_referenced(self.policy), 2))
        context = [key for key in counts if key.startswith(CONTEXT)]
        # Names of a context that differ in case are one condition key, which then has two values.
        counts.update({key: 2 - counts[key] for key in context if counts[key] < 2})
        if context:
            counts[CONTEXT_KEYS] += len(context)
        self._sizes = {key: max(count, self.values) for key, count in counts.items()}

    def slots(self, key: str) -> tuple[Slot, ...]:
        """The slots of a key."""
        name = key_name(key)
        if name not in self._slots:
            size = self._sizes.get(name, 1)
            single = KMS.find(name) is not None and not KMS.multivalued(name) and not name.startswith(CONTEXT)
            if single and not self.values:
                size = 1
            sent = not KMS.never_sent(name)
            self._slots[name] = tuple(
                Slot(
                    z3.Bool(f"{name}#{index}?") if sent else z3.BoolVal(False),
                    constant(self.fixed[name]) if name in self.fixed else z3.String(f"{name}#{index}"),
                )
                for index in range(size)
            )
        return self._slots[name]

    def choices(self, key: str) -> tuple[str, ...] | None:
        """The finitely many values of a key that is compared as a number, a time or an address."""
        name = key_name(key)
        if self.values or name not in self._conditions or name in _referenced(self.policy):
            return None
        return representatives(self._conditions[name])

    def standing_for(self, key: str, text: str) -> list[str]:
        """The choices of a key that every condition on it answers as it answers a text."""
        conditions = self._conditions.get(key_name(key), [])

        def outcome(value: str) -> list[Verdict]:
            return [
                compare(item, (constant,), value)
                for item in conditions
                if item.operator != "Null"
                for constant in item.values
            ]

        return [choice for choice in self.choices(key) or () if outcome(choice) == outcome(text)]

    def one_of(self, value: Any, listed: Iterable[str]) -> Any:
        """Whether a value is one of some texts."""
        wanted = frozenset(listed)
        if not wanted:
            return z3.BoolVal(False)
        expression = texts.union([texts.literal(text) for text in sorted(wanted)])
        return self._member(value, Membership(expression, wanted.__contains__, wanted))

    def matches(self, value: Any, expression: Any, test: Callable[[str], bool]) -> Any:
        """Whether a value matches an expression; ``test`` is the same for a text."""
        return self._member(value, Membership(expression, test))

    def _member(self, value: Any, found: Membership) -> Any:
        if self.values:
            return z3.simplify(z3.InRe(value, found.expression))
        if z3.is_string_value(value):
            return z3.BoolVal(found.test(texts.text_in(value)))
        known = self._members.setdefault(value.get_id(), (value, {}))[1]
        for symbol, other in known.items():
            if other.expression.eq(found.expression):
                return symbol
        symbol = z3.Bool(f"member#{value}#{len(known)}")
        known[symbol] = found
        return symbol

    def mentions(self, key: str) -> bool:
        """Whether the policy mentions a key."""
        return key_name(key) in self._sizes

    def keys(self) -> Mapping[str, tuple[Slot, ...]]:
        """Every key that came up."""
        return dict(self._slots)

    def abstract(self, value: Any, condition: Condition, parts: tuple[Part, ...]) -> Any:
        """A free symbol in place of a comparison."""
        symbol = z3.Bool(f"free#{len(self.free)}")
        self.free.append(FreeSymbol(symbol, value, condition, parts))
        return symbol

    def require(self, formula: Any) -> None:
        """Add to ``constraints``."""
        self._more.append(formula)

    def constraints(self) -> list[Any]:
        """What holds for every request: registers are hex, a context's keys are listed, and so on."""
        found = [*self._more, *self._context_is_listed()]
        for key, slots in self._slots.items():
            choices = self.choices(key)
            register = key.startswith(ATTESTATION)
            for slot in slots:
                members = self._members.get(slot.value.get_id(), (None, {}))[1]
                found += _memberships(slot.value, members, choices=choices, register=register)
                if register and not members:
                    found.append(z3.InRe(slot.value, texts.REGISTER_VALUE))
        mine = {slot.value.get_id() for slots in self._slots.values() for slot in slots}
        for number, (value, members) in self._members.items():
            if number not in mine:
                found += _memberships(value, members, choices=None, register=False)
        return found

    def _context_is_listed(self) -> list[Any]:
        """kms:EncryptionContextKeys has the key of every pair (KMS Developer Guide, section of that name)."""
        if not self.mentions(CONTEXT_KEYS) or self.values:
            return []
        return [
            z3.Implies(slot.present, self.lists(key))
            for key, slots in list(self._slots.items())
            if key.startswith(CONTEXT)
            for slot in slots
        ]

    def lists(self, key: str) -> Any:
        """Whether kms:EncryptionContextKeys has the key of an encryption context's condition key."""
        name = key[len(CONTEXT) :]
        expression = texts.same_but_case(name)
        return z3.Or(
            *(
                z3.And(
                    item.present, self.matches(item.value, expression, lambda text: same_but_case(name, text))
                )
                for item in self.slots(CONTEXT_KEYS)
            )
        )

    def corrections(self, model: Any) -> list[Any]:
        """What the evaluator says of the free symbols for the values of a model, where it differs."""
        found = []
        for item in self.free:
            fixed = [item.value == constant(texts.text_of(model, item.value))]
            context: dict[str, tuple[str, ...]] = {}
            for part in item.parts:
                if isinstance(part, Variable):
                    for slot in self.slots(part.key):
                        there = z3.is_true(model.eval(slot.present, model_completion=True))
                        fixed.append(slot.present == there)
                        if there:
                            text = texts.text_of(model, slot.value)
                            fixed.append(slot.value == constant(text))
                            context[part.key] = (*context.get(part.key, ()), text)
            resolved = resolve(item.parts, context)
            value = texts.text_of(model, item.value)
            right = resolved is not None and compare(item.condition, resolved, value) is Verdict.YES
            if z3.is_true(model.eval(item.symbol, model_completion=True)) is not right:
                found.append(z3.Implies(z3.And(*fixed), item.symbol == right))
        return found


def _referenced(policy: Policy) -> set[str]:
    if not policy.variables:
        return set()
    written = [
        text
        for statement in policy.statements
        for text in (*statement.resources, *(v for item in statement.conditions for v in item.values))
        if "${" in text
    ]
    return {
        key_name(part.key) for text in written for part in parts_of(text, True) if isinstance(part, Variable)
    }


def key_name(key: str) -> str:
    """A condition key in lower case; one name for "ImageSha384", which "corresponds to PCR0"."""
    name = key.lower()
    return f"{ATTESTATION}pcr0" if name == f"{ATTESTATION}imagesha384" else name


def statement_formula(space: Space, found: PolicyStatement, resource: Any) -> Bounds:
    """The formula of a statement with effect whose action matches, its principal left out."""
    listed = bounds.some([_resource(space, found, text, resource) for text in found.resources])
    parts = [listed.opposite() if found.not_resource else listed]
    parts += [condition_formula(space, item) for item in found.conditions]
    return bounds.every(parts)


def _resource(space: Space, found: PolicyStatement, text: str, resource: Any) -> Bounds:
    parts = parts_of(text, space.policy.variables)
    if any(isinstance(part, Variable) for part in parts):
        condition = Condition(Quantifier.NONE, "ArnLike", False, "resource", (text,))
        return exact(space.abstract(resource, condition, parts))
    if text == "*":
        return ALWAYS
    fixed = _without_variables(parts)
    full = completed(fixed)
    crosses = [texts.crosses_at_ends(fixed), texts.crosses_at_ends(full)]
    expressions = {
        True: texts.union([texts.by_segments(full), *crosses]),
        False: texts.union([texts.by_segments(full), *crosses, texts.glob(fixed), texts.glob(full)]),
    }
    if not permits_by_matching(found):
        expressions[True] = texts.by_segments(full)

    def answer(text: str) -> Verdict:
        return one_resource(found, "".join(map(_written, parts)), text, {}, False, Doubts())

    return Bounds(
        space.matches(resource, expressions[True], lambda text: answer(text).surely),
        space.matches(resource, expressions[False], lambda text: answer(text).perhaps),
    )


def _written(part: Part) -> str:
    return part.value if isinstance(part, Wild) else str(part)


def condition_formula(space: Space, found: Condition) -> Bounds:
    """The formula of one condition."""
    slots = space.slots(found.key)
    present = z3.Or(*(slot.present for slot in slots))
    if found.operator == "Null":
        wanted = {value.lower() for value in found.values}
        return exact(z3.Or(z3.And("true" in wanted, z3.Not(present)), z3.And("false" in wanted, present)))
    negate = negated(found.operator)
    absent = exact(_when_absent(found, negate))
    plain = found.quantifier is Quantifier.NONE
    if mistyped(found) or (plain and KMS.multivalued(found.key)):
        return either(present, OPEN, absent)
    tests = []
    for slot in slots:
        matches = _matches(space, found, slot.value)
        tests.append((slot.present, matches.opposite() if negate else matches))
    if found.quantifier is Quantifier.ANY:
        filled = bounds.some([given(there, test) for there, test in tests])
    else:
        filled = bounds.every([either(there, test, ALWAYS) for there, test in tests])
    if plain and len(slots) > 1:
        several = z3.Or(
            *(
                z3.And(slot.present, other.present)
                for index, slot in enumerate(slots)
                for other in slots[index + 1 :]
            )
        )
        filled = either(several, OPEN, filled)
    return either(present, filled, absent)


def _when_absent(found: Condition, negate: bool) -> Any:
    if found.if_exists or found.quantifier is Quantifier.ALL:
        return z3.BoolVal(True)
    return z3.BoolVal(negate and found.quantifier is Quantifier.NONE)


def _matches(space: Space, found: Condition, value: Any) -> Bounds:
    enabled = space.policy.variables and found.operator.startswith(WITH_VARIABLES)
    read = [parts_of(text, enabled, not without_wildcards(found.operator)) for text in found.values]
    fixed = [parts for parts in read if not any(isinstance(part, Variable) for part in parts)]
    plain = [_without_variables(parts) for parts in fixed if not odd_register(found, parts)]
    items = [_with_variables(space, found, parts, value) for parts in read if parts not in fixed]
    items += [OPEN for parts in fixed if odd_register(found, parts)]
    return bounds.some([*items, *([_one_of_them(space, found, plain, value)] if plain else [])])


def _one_of_them(
    space: Space, found: Condition, patterns: Sequence[tuple[str | Wild, ...]], value: Any
) -> Bounds:
    """Whether a value matches one of the patterns, which have no variables."""

    def answer(text: str) -> Verdict:
        return some(compare(found, pattern, text) for pattern in patterns)

    if family(found):
        choices = space.choices(found.key)
        if choices is not None:
            return exact(space.one_of(value, [text for text in choices if answer(text) is Verdict.YES]))
        return bounds.some([exact(space.abstract(value, found, pattern)) for pattern in patterns])
    register = key_name(found.key).startswith(ATTESTATION)
    if without_wildcards(found.operator) and found.operator != "Bool":
        fold = found.operator.endswith("IgnoreCase")
        listed = [text_of(pattern) for pattern in patterns]
        if register or not fold:
            return exact(space.one_of(value, [text.lower() if fold else text for text in listed]))
    surely, perhaps = zip(*(_expressions(found, pattern) for pattern in patterns), strict=True)
    if all(one is other for one, other in zip(surely, perhaps, strict=True)):
        return exact(space.matches(value, texts.union(surely), lambda text: answer(text).surely))
    decided = [item for item in surely if item is not None]
    return Bounds(
        space.matches(value, texts.union(decided), lambda text: answer(text).surely)
        if decided
        else z3.BoolVal(False),
        space.matches(value, texts.union(perhaps), lambda text: answer(text).perhaps),
    )


def _expressions(found: Condition, pattern: tuple[str | Wild, ...]) -> tuple[Any, Any]:
    """What surely and what perhaps matches a pattern; None for nothing."""
    if found.operator.endswith("IgnoreCase"):
        return texts.same_but_case(text_of(pattern)), texts.perhaps_same_but_case(text_of(pattern))
    if found.operator == "Bool":
        return (texts.same_but_case(text_of(pattern)),) * 2
    if not found.operator.startswith("Arn") or pattern == (Wild.ANY,):
        return (texts.glob(pattern),) * 2
    by_segments = texts.by_segments(pattern)
    if len(segments(pattern)) == 6:
        return by_segments, by_segments
    return None, texts.union([by_segments, texts.glob(pattern)])


def _without_variables(parts: Iterable[Part]) -> tuple[str | Wild, ...]:
    return tuple(part for part in parts if not isinstance(part, Variable))


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
        incomplete = found.operator.startswith("Arn") and len(segments(_without_variables(parts))) < 6
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
