"""The errors and the shell of ``coattest_build``, re-exported for the rooms that may not import it."""

from __future__ import annotations

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.files import atomic_file, write_atomic, write_new
from coattest.jsontext import Rows, emit_json
from coattest.shell import (
    Decorator,
    LazyGroup,
    byte_progress,
    err,
    from_os_error,
    json_option,
    option_group,
    out,
    run,
    step_progress,
    utc_now,
)
from coattest.text import printable

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
