"""Tasks that are done together, step by step: a step of each before the next step of any.

A task is a generator that yields between its steps and returns its result, which no other task changes. To
read a document and to verify a signature each fill the processor's caches with their own: eight documents
read and then eight signatures verified take less time than eight times both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

AT_A_TIME: Final = 8
"""Documents that are verified together."""


def together(tasks: Iterable[Steps[T]]) -> list[T]:
    """The result of each task, in order. Raises what a task raises; the others end there."""
    results: dict[int, T] = {}
    going = list(enumerate(tasks))
    while going:
        started, going = going, []
        for numbered in started:
            try:
                next(numbered[1])
            except StopIteration as done:
                results[numbered[0]] = done.value
            else:
                going.append(numbered)
    return [results[number] for number in range(len(results))]


def alone(task: Steps[T]) -> T:
    """The result of one task."""
    return together([task])[0]
