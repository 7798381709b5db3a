"""A policy's conditions as formulas over what a request may carry.

For each condition key a request has some values, at most as many as can matter: from any set of values that
satisfies the conditions on a key, one witness for each condition is enough, so their number bounds the
slots. Numbers, dates and addresses are not modelled: their comparisons are free booleans, which makes
"proved" sound and a counterexample something to be confirmed by the evaluator (``goals``).

"Does not match" is written as "matches the complement": z3 meets a string's memberships in one derivative,
while negated memberships and disequalities of long strings take it seconds.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import Condition, Policy, PolicyStatement, Quantifier
from coattest_verify.keypolicy.iam.conditions import negated
from coattest_verify.keypolicy.iam.match import LITERALS, VARIABLE

PRINTABLE = z3.Star(z3.Range(" ", "~"))
"""Strings are printable ASCII, and so are all constants. No pattern has * or ? as a literal, so these two
stand for every character that is left out."""

LOWER_HEX = z3.Star(z3.Union(z3.Range("0", "9"), z3.Range("a", "f")))
ANY_CHARACTER = z3.AllChar(z3.ReSort(z3.StringSort()))
NO_COLON = z3.Intersect(ANY_CHARACTER, z3.Complement(z3.Re(":")))

ATTESTATION = "kms:recipientattestation:"
SINGLE_VALUED = (
    ATTESTATION,
    "kms:calleraccount",
    "aws:principal",
    "aws:source",
    "aws:userid",
    "aws:username",
)
"""Keys that hold one value in every request (IAM User Guide, "Global condition context keys": single-valued).
kms:EncryptionContext:KEY is not among them: names that differ in case are one condition key."""

MULTI_VALUED = ("aws:principalorgpaths", "aws:principalservicenameslist", "aws:sourceorgpaths")


class Unsupported(Exception):
    """Something in the policy that has no sound formula here; the answer is then "unknown"."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One possible value of a key."""

    present: Any
    value: Any


class Space:
    """The symbols of one question: slots for each key, free booleans for what is abstracted."""

    def __init__(self, policy: Policy, *, values: int = 0) -> None:
        counts = Counter(
            _name(condition.key) for statement in policy.statements for condition in statement.conditions
        )
        # A variable stands for a key's only value, so whether there is a second one matters too.
        counts.update(dict.fromkeys(_referenced(policy), 2))
        self._sizes = {key: max(count, values) for key, count in counts.items()}
        self._exact = values > 0
        self._slots: dict[str, tuple[Slot, ...]] = {}
        self.abstractions: list[tuple[Any, Condition]] = []
        self._members: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def slots(self, key: str) -> tuple[Slot, ...]:
        """The slots of a key. The first is always filled first."""
        name = _name(key)
        if name not in self._slots:
            size = self._sizes.get(name, 1)
            single = name.startswith(SINGLE_VALUED) and name not in MULTI_VALUED
            if single and not self._exact:
                size = 1
            self._slots[name] = tuple(
                Slot(z3.Bool(f"{name}#{index}?"), z3.String(f"{name}#{index}")) for index in range(size)
            )
        return self._slots[name]

    def member(self, value: Any, expression: Any) -> Any:
        """Whether a value matches; the two sides of the answer are part of ``constraints``."""
        if self._exact or z3.is_string_value(value):
            return z3.simplify(z3.InRe(value, expression))
        key = (value.get_id(), expression.get_id())
        if key not in self._members:
            self._members[key] = (z3.Bool(f"member#{len(self._members)}"), value, expression)
        return self._members[key][0]

    def mentions(self, key: str) -> bool:
        """Whether the policy mentions a key."""
        return _name(key) in self._sizes

    def constraints(self) -> list[Any]:
        """Constraints on every request: strings are printable, registers are lower-case hex."""
        texts = [
            z3.InRe(slot.value, LOWER_HEX if key.startswith(ATTESTATION) else PRINTABLE)
            for key, slots in self._slots.items()
            for slot in slots
        ]
        for symbol, value, expression in self._members.values():
            texts.append(z3.Implies(symbol, z3.InRe(value, expression)))
            texts.append(z3.Implies(z3.Not(symbol), z3.InRe(value, z3.Complement(expression))))
        return [*texts, *self._hints()]

    def _hints(self) -> list[Any]:
        """What follows from a value being a constant. The solver would find it out character by character,
        which takes too long with long texts that are nearly the same.
        """
        found = []
        for symbol, value, expression in self._members.values():
            if expression.decl().kind() != z3.Z3_OP_SEQ_TO_RE:
                continue
            for other, tested, pattern in self._members.values():
                if other is not symbol and tested.eq(value):
                    matches = z3.is_true(z3.simplify(z3.InRe(expression.arg(0), pattern)))
                    found.append(z3.Implies(symbol, other if matches else z3.Not(other)))
        return found

    def keys(self) -> Mapping[str, tuple[Slot, ...]]:
        """Every key that came up."""
        return dict(self._slots)

    def abstract(self, condition: Condition) -> Any:
        """A free boolean in place of a comparison."""
        symbol = z3.Bool(f"abstract#{len(self.abstractions)}")
        self.abstractions.append((symbol, condition))
        return symbol


def _referenced(policy: Policy) -> set[str]:
    texts = [
        text
        for statement in policy.statements
        for text in (
            *statement.resources,
            *(v for condition in statement.conditions for v in condition.values),
        )
    ]
    return {_name(match["key"].strip()) for text in texts for match in VARIABLE.finditer(text)}


def _name(key: str) -> str:
    name = key.lower()
    # AWS: "The ImageSha384 value corresponds to PCR0".
    return f"{ATTESTATION}pcr0" if name == f"{ATTESTATION}imagesha384" else name


def statement_formula(space: Space, found: PolicyStatement, resource: Any, variables: bool) -> Any:
    """The formula of a statement whose principal and action match."""
    matches = [_resource(space, pattern, resource, variables) for pattern in found.resources]
    listed = z3.Or(*matches)
    parts = [z3.Not(listed) if found.not_resource else listed]
    parts += [condition_formula(space, item, variables) for item in found.conditions]
    return z3.And(*parts)


def _resource(space: Space, pattern: str, resource: Any, variables: bool) -> Any:
    if variables and "${" in pattern:
        return space.abstract(Condition(Quantifier.NONE, "ArnLike", False, "resource", (pattern,)))
    return space.member(resource, arn_expression(pattern))


def condition_formula(space: Space, found: Condition, variables: bool) -> Any:
    """The formula of one condition: the twin of ``iam.conditions.holds``."""
    slots = space.slots(found.key)
    present = z3.Or(*(slot.present for slot in slots))
    if found.operator == "Null":
        wanted = {value.lower() for value in found.values}
        return z3.Or(z3.And("true" in wanted, z3.Not(present)), z3.And("false" in wanted, present))
    negate = negated(found.operator)
    tests = [(slot.present, _matches(space, found, slot.value, variables)) for slot in slots]
    if found.quantifier is Quantifier.ALL:
        filled = z3.And(*(z3.Implies(there, z3.Xor(test, negate)) for there, test in tests))
    elif found.quantifier is Quantifier.ANY:
        filled = z3.Or(*(z3.And(there, z3.Xor(test, negate)) for there, test in tests))
    else:
        filled = z3.Xor(z3.Or(*(z3.And(there, test) for there, test in tests)), negate)
    return z3.If(present, filled, _when_absent(found, negate))


def _when_absent(found: Condition, negate: bool) -> Any:
    if found.if_exists or found.quantifier is Quantifier.ALL:
        return z3.BoolVal(True)
    return z3.BoolVal(negate and found.quantifier is Quantifier.NONE)


def _matches(space: Space, found: Condition, value: Any, variables: bool) -> Any:
    if found.operator.startswith(("Numeric", "Date")) or found.operator.endswith("IpAddress"):
        return space.abstract(found)
    fold = found.operator.endswith("IgnoreCase") or found.operator == "Bool"
    compare: Callable[[str], Any] = equals
    if fold:
        hexadecimal = _name(found.key).startswith(ATTESTATION)
        compare = _equals_lower_hex if hexadecimal else equals_ignore_case
    elif found.operator.endswith("Like") and found.operator.startswith("String"):
        compare = glob_expression
    elif found.operator.startswith("Arn"):
        compare = arn_expression
    substituted = variables and found.operator.startswith(("String", "Arn"))
    return z3.Or(
        *(
            _with_variables(space, found, pattern, value, exact=compare is equals)
            if substituted and "${" in pattern
            else space.member(value, compare(pattern))
            for pattern in found.values
        )
    )


def _with_variables(space: Space, found: Condition, pattern: str, value: Any, *, exact: bool) -> Any:
    """An equality with the variables' own symbols; anything else with variables is abstracted."""
    if not exact:
        return space.abstract(found)
    parts: list[Any] = [z3.StringVal("")]
    needed: list[Any] = []
    at = 0
    for match in VARIABLE.finditer(pattern):
        parts.append(constant(pattern[at : match.start()]))
        at = match.end()
        key = match["key"].strip()
        if key in LITERALS:
            parts.append(constant(key))
            continue
        only, one = _only(space.slots(key))
        if match["default"] is None:
            needed.append(only)
            parts.append(one)
        else:
            parts.append(z3.If(only, one, constant(match["default"])))
    parts.append(constant(pattern[at:]))
    return z3.And(*needed, value == z3.Concat(*parts))


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


def constant(text: str) -> Any:
    """A text as it stands: z3 would read a backslash followed by u as an escape. Raises Unsupported."""
    if not (text.isascii() and (text.isprintable() or not text)):
        raise Unsupported(f"{text!r} has characters outside printable ASCII")
    return z3.StringVal(text.replace("\\", "\\u{5c}"))


def equals(pattern: str) -> Any:
    """The expression that matches a constant."""
    return z3.Re(constant(pattern))


def _equals_lower_hex(pattern: str) -> Any:
    constant(pattern)
    return z3.Re(constant(pattern.lower()))


def equals_ignore_case(pattern: str) -> Any:
    """The expression that matches a constant in any case."""
    constant(pattern)
    return _sequence([_either_case(character) for character in pattern])


def _either_case(character: str) -> Any:
    if character.lower() == character.upper():
        return z3.Re(character)
    return z3.Union(z3.Re(character.lower()), z3.Re(character.upper()))


def glob_expression(pattern: str) -> Any:
    """The expression of a pattern with * and ?."""
    return _glob(pattern, ANY_CHARACTER)


def arn_expression(pattern: str) -> Any:
    """The expression of an ARN pattern, part by part: the twin of ``iam.match.arn``."""
    if pattern == "*":
        return z3.Star(ANY_CHARACTER)
    parts = pattern.split(":", 5)
    parts += ["*"] * (6 - len(parts))
    expressions = [_glob(part, NO_COLON) for part in parts[:5]] + [_glob(parts[5], ANY_CHARACTER)]
    joined: list[Any] = []
    for expression in expressions:
        joined += [expression, z3.Re(":")]
    return _sequence(joined[:-1])


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str, character: Any) -> Any:
    parts: list[Any] = []
    literal = ""
    for item in pattern:
        if item in "*?":
            if literal:
                parts.append(z3.Re(constant(literal)))
                literal = ""
            parts.append(z3.Star(character) if item == "*" else character)
        else:
            literal += item
    if literal or not parts:
        parts.append(z3.Re(constant(literal)))
    return _sequence(parts)


def _sequence(parts: list[Any]) -> Any:
    if not parts:
        return z3.Re("")
    return parts[0] if len(parts) == 1 else z3.Concat(*parts)
