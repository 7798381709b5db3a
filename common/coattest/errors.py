"""The one error root of the tools, grouped by who is to blame; each class carries its exit code.

An error is one line: what happened, where, and what to do about it. Nothing in it may be a secret.
"""

from __future__ import annotations

from typing import ClassVar


class CoattestError(Exception):
    """Root of every error that a command reports in one line.

    ``what`` says what is wrong, ``where`` names the file, field or input, ``hint`` says what to do.
    ``reason`` is the stable code that ``--json`` output carries.
    """

    exit_code: ClassVar[int] = 3
    default_reason: ClassVar[str] = "error"

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.reason = reason or self.default_reason

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.hint})" if self.hint else ""
        return " ".join(f"{place}{self.what}{remedy}".split())


class FoundFalse(CoattestError):
    """Something was verified and found false. Exit code 1."""

    exit_code = 1
    default_reason = "found-false"


class UsageError(CoattestError):
    """The caller asked for something that makes no sense, or gave a file that does not parse. Exit code 2."""

    exit_code = 2
    default_reason = "usage"


class EnvironmentFailure(CoattestError):
    """The environment could not do it: network, disk, isolation, a service that is down. Exit code 3."""

    exit_code = 3
    default_reason = "environment"


class Rejected(FoundFalse):
    """A file or a part of it that does not count, with the code of the rule that it broke."""

    default_reason = "malformed"
