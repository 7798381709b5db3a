"""An answer with three values, and the words of a policy that AWS's documents leave open.

What AWS does not say is neither yes nor no here: the prover answers "unknown", the local KMS refuses.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field


class Verdict(enum.Enum):
    """Whether something holds. Kleene's three values."""

    NO = 0
    OPEN = 1
    YES = 2

    @property
    def surely(self) -> bool:
        """Whether it holds in every reading."""
        return self is Verdict.YES

    @property
    def perhaps(self) -> bool:
        """Whether it holds in some reading."""
        return self is not Verdict.NO

    def opposite(self) -> Verdict:
        """Not this."""
        return Verdict(2 - self.value)


def verdict(answer: bool) -> Verdict:
    """A plain yes or no."""
    return Verdict.YES if answer else Verdict.NO


def every(answers: Iterable[Verdict]) -> Verdict:
    """All of them; yes for none."""
    return min(answers, key=lambda item: item.value, default=Verdict.YES)


def some(answers: Iterable[Verdict]) -> Verdict:
    """At least one of them; no for none."""
    return max(answers, key=lambda item: item.value, default=Verdict.NO)


@dataclass(frozen=True, slots=True, order=True)
class Doubt:
    """Words of a policy whose effect AWS leaves open, why, and what to write instead."""

    words: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.words}: {self.why}; {self.instead}"


@dataclass(slots=True)
class Doubts:
    """The doubts that an evaluation met."""

    found: set[Doubt] = field(default_factory=set)

    def open(self, words: str, why: str, instead: str) -> Verdict:
        """Note a doubt; returns OPEN."""
        self.found.add(Doubt(words, why, instead))
        return Verdict.OPEN
