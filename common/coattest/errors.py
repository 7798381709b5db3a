"""The one error root of the tools, grouped by who is to blame; each class carries its exit code.

An error is one line: what happened, where, and what to do about it. Nothing in it may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from coattest.codes import require
from coattest.findings import Finding


class CoattestError(Exception):
    """Root of every error that a command reports in one line.

    ``what`` says what is wrong, ``where`` names the file, field or input, ``hint`` says what to do.
    ``code`` is the registered code that ``--json`` output carries (``coattest.codes``); ``service_code`` is
    the code that a service outside gave, such as AWS's SlowDown. ``findings`` are the single things that are
    wrong, where there can be several.
    """

    exit_code: ClassVar[int] = 3
    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        code: str | None = None,
        service_code: str | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.code = require(code or self.default_code)
        self.service_code = service_code
        self.findings = tuple(findings)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.hint})" if self.hint else ""
        return " ".join(f"{place}{self.what}{remedy}".split())

    def to_json(self) -> dict[str, Any]:
        """The error as one object: error, where, hint, code; service_code and findings where there are."""
        document: dict[str, Any] = {
            "error": self.what,
            "where": self.where,
            "hint": self.hint,
            "code": self.code,
        }
        if self.service_code is not None:
            document["service_code"] = self.service_code
        if self.findings:
            document["findings"] = [finding.to_json() for finding in self.findings]
        return document


class FoundFalse(CoattestError):
    """Something was verified and found false. Exit code 1."""

    exit_code = 1
    default_code = "found-false"


class UsageError(CoattestError):
    """The caller asked for something that makes no sense, or gave a file that does not parse. Exit code 2."""

    exit_code = 2
    default_code = "usage"


class EnvironmentFailure(CoattestError):
    """The environment could not do it: network, disk, isolation, a service that is down. Exit code 3."""

    exit_code = 3
    default_code = "environment"


class Rejected(FoundFalse):
    """A file or a part of it that does not count, with the code of the rule that it broke."""

    default_code = "malformed"


PATHS = (str, os.PathLike)
"""What a path may be given as."""


def require_kind(
    value: object, kinds: type | tuple[type, ...], where: str, *, hint: str | None = None
) -> None:
    """Refuse an argument of the library that is of another type; ``where`` is its name. Raises UsageError."""
    if isinstance(value, kinds):
        return
    names = [each.__name__ for each in (kinds if isinstance(kinds, tuple) else (kinds,))]
    what = f"has to be {' or '.join(names)}, not {type(value).__name__}"
    raise UsageError(what, where=where, hint=hint, code="bad-expectation")


def require_aware(now: object, where: str = "now") -> None:
    """Refuse a time without a zone, and what is no time. Raises UsageError."""
    if not isinstance(now, datetime) or now.utcoffset() is None:
        raise UsageError(
            "the time needs a zone", where=where, hint="datetime.now(timezone.utc)", code="bad-expectation"
        )
