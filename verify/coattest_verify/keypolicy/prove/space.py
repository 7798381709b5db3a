"""What a request may carry, as symbols: values of condition keys, and what is known of them.

For each condition key a request has some values, at most as many as can matter: from any set of values that
satisfies the conditions on a key, one witness for each condition is enough, so their number bounds the
slots. A value is one of the texts that the policy compares it with, where every answer is known, or another
one. Values that are compared as numbers, times or addresses are one of finitely many (``ranges``). What has
no formula (a pattern with variables in it) is a free symbol, which makes "proved" sound; what the solver
makes of it is then compared with the evaluator, and corrected for that value (``Space.corrections``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Condition, Policy, Ternary
from coattest_verify.keypolicy.iam.actions import ATTESTATION, CONTEXT, CONTEXT_KEYS
from coattest_verify.keypolicy.iam.conditions import compare_value, instant, number
from coattest_verify.keypolicy.iam.match import Part, Variable, ascii_lower, parts_of, resolve, same_but_case
from coattest_verify.keypolicy.prove import texts
from coattest_verify.keypolicy.prove.ranges import representatives
from coattest_verify.keypolicy.prove.texts import constant

TWICE = (CONTEXT, "aws:requesttag/", "aws:resourcetag/")
"""Keys that hold a name in which KMS minds the case, while the name of a condition key does not: of two names
that differ in case alone a request has both, and AWS does not say what a condition then sees.
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """One possible value of a key. ``empty`` where it is the empty text, whatever the symbol's text is then:
    of an empty value every answer is known, and the solver has less to find.
    """

    present: Any
    value: Any
    empty: Any


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
        rest.append(z3.Complement(z3.Union([texts.literal(text) for text in texts_that_occur])))
    patterns = {member: item.expression for member, item in members.items() if item.listed is None}
    if rest and not patterns and not z3.is_string_value(value):
        found.append(z3.Implies(another, z3.InRe(value, z3.Intersect(rest))))
    elif rest and not (register and patterns):
        found += [z3.Implies(another, z3.InRe(value, item)) for item in rest]
    for member, item in members.items():
        if item.listed is not None:
            found.append(z3.Implies(another, z3.Not(member)))
    # What a register is stands in each expression: as a constraint beside them it takes the solver minutes.
    beside = rest if register else []
    for member, expression in patterns.items():
        inside = z3.Intersect([*beside, expression])
        outside = z3.Intersect([*beside, z3.Complement(expression)])
        found.append(z3.Implies(z3.And(another, member), z3.InRe(value, inside)))
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
        # Names of a context or of tags that differ in case are one condition key, which then has two values.
        # So may a key have that AWS's list does not know.
        twice = [key for key in counts if key.startswith(TWICE) or KMS.find(key) is None]
        counts.update({key: 2 - counts[key] for key in twice if counts[key] < 2})
        if context:
            counts[CONTEXT_KEYS] += len(context)
        self._sizes = {key: max(count, self.values) for key, count in counts.items()}

    def slots(self, key: str) -> tuple[Slot, ...]:
        """The slots of a key."""
        name = key_name(key)
        if name not in self._slots:
            size = self._sizes.get(name, 1)
            single = KMS.find(name) is not None and not KMS.multivalued(name) and not name.startswith(TWICE)
            if single and not self.values:
                size = 1
            self._slots[name] = tuple(self._slot(name, index) for index in range(size))
        return self._slots[name]

    def _slot(self, name: str, index: int) -> Slot:
        present = z3.BoolVal(False) if KMS.never_sent(name) else z3.Bool(f"{name}#{index}?")
        value = constant(self.fixed[name]) if name in self.fixed else z3.String(f"{name}#{index}")
        # No register is empty, and no caller's ARN.
        filled = name in self.fixed or name.startswith((ATTESTATION, "aws:principalarn"))
        if self.values:
            return Slot(present, value, z3.BoolVal(False) if filled else value == z3.StringVal(""))
        return Slot(present, value, z3.BoolVal(False) if filled else z3.Bool(f"{name}#{index}=empty"))

    def choices(self, key: str) -> tuple[str, ...] | None:
        """The finitely many values of a key that is compared as a number, a time or an address."""
        name = key_name(key)
        if self.values or name not in self._conditions or name in _referenced(self.policy):
            return None
        return representatives(self._conditions[name])

    def equivalents(self, key: str, text: str) -> list[str]:
        """The choices of a key that every condition on it answers as it answers a text."""
        conditions = self._conditions.get(key_name(key), [])

        def outcome(value: str) -> list[Ternary]:
            return [
                compare_value(item, (constant,), value)
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
        expression = z3.Union([texts.literal(text) for text in sorted(wanted)])
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

    def named(self) -> Iterable[str]:
        """Every key that the policy's conditions and variables name, in lower case."""
        return tuple(self._sizes)

    def conditions(self, key: str) -> Sequence[Condition]:
        """The policy's conditions on a key."""
        return self._conditions.get(key_name(key), ())

    def moments(self, key: str) -> list[Decimal]:
        """The times that the policy compares a key with, in seconds since the epoch."""
        conditions = [item for item in self.conditions(key) if item.operator != "Null"]
        readers = [number if "Numeric" in item.operator else instant for item in conditions]
        return [read(value) for item, read in zip(conditions, readers, strict=True) for value in item.values]

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
        for key in _referenced(self.policy) & set(self._slots):
            found += [z3.Implies(slot.empty, slot.value == z3.StringVal("")) for slot in self._slots[key]]
        for key, slots in self._slots.items():
            choices = self.choices(key)
            register = key.startswith(ATTESTATION)
            compared = [value for item in self._conditions.get(key, ()) for value in item.values]
            beside_variable = register and any("${" in value for value in compared)
            for slot in slots:
                members = self._members.get(slot.value.get_id(), (None, {}))[1]
                known = _memberships(slot.value, members, choices=choices, register=register)
                if register and not members:
                    known.append(z3.InRe(slot.value, texts.REGISTER_VALUE))
                # A register beside a variable takes the solver long; where it is absent it need not look.
                found += [z3.Implies(slot.present, item) for item in known] if beside_variable else known
        mine = {slot.value.get_id() for slots in self._slots.values() for slot in slots}
        for symbol, (value, members) in self._members.items():
            if symbol not in mine:
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
        expression = texts.case_regex(name)

        def is_name(item: Slot) -> Any:
            if not name:
                return item.empty
            same = self.matches(item.value, expression, lambda text: same_but_case(name, text))
            return z3.And(z3.Not(item.empty), same)

        return z3.Or(*(z3.And(item.present, is_name(item)) for item in self.slots(CONTEXT_KEYS)))

    def corrections(self, model: Any) -> list[Any]:
        """What the evaluator says of the free symbols for the values of a model, where it differs."""
        found = []
        for item in self.free:
            fixed = [item.value == constant(texts.model_text(model, item.value))]
            context: dict[str, tuple[str, ...]] = {}
            for part in item.parts:
                if isinstance(part, Variable):
                    for slot in self.slots(part.key):
                        there = z3.is_true(model.eval(slot.present, model_completion=True))
                        fixed.append(slot.present == there)
                        if there:
                            text = texts.model_text(model, slot.value)
                            fixed.append(slot.value == constant(text))
                            context[part.key] = (*context.get(part.key, ()), text)
            resolved = resolve(item.parts, context)
            value = texts.model_text(model, item.value)
            right = resolved is not None and compare_value(item.condition, resolved, value) is Ternary.YES
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
    name = ascii_lower(key)
    return f"{ATTESTATION}pcr0" if name == f"{ATTESTATION}imagesha384" else name
