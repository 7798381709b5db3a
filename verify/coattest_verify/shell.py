"""The errors and the shell of ``coattest_build``, re-exported for the rooms that may not import it."""

from __future__ import annotations

from coattest_build.atomic import atomic_file, write_atomic, write_new
from coattest_build.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest_build.shell import (
    Decorator,
    LazyGroup,
    Rows,
    byte_progress,
    emit_json,
    err,
    from_os_error,
    json_option,
    option_group,
    out,
    printable,
    run,
    step_progress,
    utc_now,
)

__all__ = [
    "CoattestError",
    "Decorator",
    "EnvironmentFailure",
    "FoundFalse",
    "LazyGroup",
    "Rows",
    "UsageError",
    "atomic_file",
    "byte_progress",
    "emit_json",
    "err",
    "from_os_error",
    "json_option",
    "option_group",
    "out",
    "printable",
    "run",
    "step_progress",
    "utc_now",
    "write_atomic",
    "write_new",
]
