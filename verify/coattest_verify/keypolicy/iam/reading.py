"""An answer with three values, and the words of a policy that AWS's documents leave open.

What AWS does not say is neither yes nor no here: the prover answers "unknown", the local KMS refuses.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


class Ternary(enum.Enum):
    """Whether something holds. Kleene's three values."""

    NO = 0
    OPEN = 1
    YES = 2

    def __bool__(self) -> bool:
        raise TypeError("a Ternary is asked for surely or perhaps")

    @property
    def surely(self) -> bool:
        """Whether it holds in every reading."""
        return self is Ternary.YES

    @property
    def perhaps(self) -> bool:
        """Whether it holds in some reading."""
        return self is not Ternary.NO

    def opposite(self) -> Ternary:
        """Not this."""
        return Ternary(2 - self.value)


def ternary(answer: bool) -> Ternary:
    """A plain yes or no."""
    return Ternary.YES if answer else Ternary.NO


def every(answers: Iterable[Ternary]) -> Ternary:
    """All of them; yes for none."""
    return min(answers, key=lambda item: item.value, default=Ternary.YES)


def some(answers: Iterable[Ternary]) -> Ternary:
    """At least one of them; no for none."""
    return max(answers, key=lambda item: item.value, default=Ternary.NO)


@dataclass(frozen=True, slots=True, order=True)
class Doubt:
    """Words of a policy whose effect AWS leaves open, why, and what to write instead."""

    words: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.words}: {self.why}; {self.instead}"


@dataclass(slots=True)
class Reading:
    """How a policy is read for one request: the request's ``context`` (keys in lower case), whether the
    policy has ``variables``, and the ``doubts`` met so far.
    """

    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: bool = False
    doubts: set[Doubt] = field(default_factory=set)

    def open(self, words: str, why: str, instead: str) -> Ternary:
        """Note a doubt; returns OPEN."""
        self.doubts.add(Doubt(words, why, instead))
        return Ternary.OPEN
