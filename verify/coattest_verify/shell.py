"""The errors and the shell of ``coattest_build``, re-exported for the rooms that may not import it."""

from __future__ import annotations

from coattest_build.atomic import atomic_file, write_atomic
from coattest_build.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest_build.shell import (
    LazyGroup,
    byte_progress,
    emit_json,
    err,
    from_os_error,
    out,
    run,
    step_progress,
)

__all__ = [
    "CoattestError",
    "EnvironmentFailure",
    "FoundFalse",
    "LazyGroup",
    "UsageError",
    "atomic_file",
    "byte_progress",
    "emit_json",
    "err",
    "from_os_error",
    "out",
    "run",
    "step_progress",
    "write_atomic",
]
