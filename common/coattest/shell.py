"""What every command shares: console, JSON, progress, clock, and the mapping from errors to exit codes.

Results go to stdout; prose, progress and errors go to stderr. ``NO_COLOR`` is honoured by rich.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import select
import sys
import traceback
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NoReturn

import click
from click.shell_completion import shell_complete

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.extras import missing_extra
from coattest.findings import Finding
from coattest.jsontext import emit_json, forget_json, json_printed
from coattest.parser import (
    Command,
    Decorator,
    LazyGroup,
    MissingParameters,
    adopted,
    judged_folder,
    needs_extra,
    option_group,
    signing_key,
)
from coattest.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from coattest.console import PlainConsole

__all__ = [
    "Decorator",
    "LazyGroup",
    "byte_progress",
    "confirm_signing",
    "err",
    "expect_option",
    "from_os_error",
    "json_option",
    "judged_folder",
    "needs_extra",
    "option_group",
    "out",
    "report_error",
    "run",
    "signing_key",
    "step_progress",
    "utc_now",
]

OS_ERRORS = {
    number: errno.errorcode[number].lower()
    for number in (
        errno.EACCES, errno.EADDRINUSE, errno.EAGAIN, errno.EBUSY, errno.ECONNREFUSED, errno.EDQUOT,
        errno.EEXIST, errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG,
        errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
    )
}  # fmt: skip
"""errno(3) and the code of an error for it; any other is ``os-error``."""

BUG = 70
"""The exit code of a bug of ours: EX_SOFTWARE of sysexits(3head)."""

json_option: Decorator = option_group(
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."), heading="Output"
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _expected(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise UsageError(
            f"--expect {value[:80]!r}", hint="sha256: and 64 lower-case hex digits", code="bad-expect"
        )
    return value.removeprefix("sha256:")


expect_option: Decorator = option_group(
    click.option(
        "--expect",
        type=_expected,
        metavar="sha256:HEX",
        help="Sign only what has this digest, as the command shows it; without a terminal there is no other"
        " way to say yes.",
    ),
    heading="What is signed",
)
"""Passed as ``expect``: 64 hex digits, or None."""

# rich is imported where it is used: `eif measure` needs none of it, and starts faster without.


def utc_now() -> datetime:
    """Now, in UTC. Commands take the time here and hand it to code that has no clock."""
    return datetime.now(timezone.utc)


def out() -> PlainConsole:
    """The console for results (stdout)."""
    from coattest.console import PlainConsole  # noqa: PLC0415

    return PlainConsole()


def err() -> PlainConsole:
    """The console for prose, progress and errors (stderr)."""
    from coattest.console import PlainConsole  # noqa: PLC0415

    return PlainConsole(stderr=True)


def confirm_signing(
    meaning: Sequence[tuple[str, str]],
    *,
    subject: str,
    digest: str,
    expected: str | None,
    looked_at: bool = False,
) -> None:
    """Show what a signature would say, and return only when it is what the caller means.

    ``meaning`` are names and values in plain words, ``digest`` is the SHA-256 (hex) of ``subject``. It must
    be ``expected``, where that is given; otherwise a person is asked on the terminal. Without a terminal
    ``looked_at`` says that an earlier command of this member looked at the very same subject. Raises
    FoundFalse (``not-expected``), EnvironmentFailure (``declined``), UsageError (``not-confirmed``).
    """
    console = err()
    rows = [*meaning, (subject, f"sha256:{digest}")]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:{width}}  {value}")
    if expected is not None:
        if expected != digest:
            raise FoundFalse(
                f"the {subject} is sha256:{digest}, not the one that --expect names",
                hint="nothing was signed",
                code="not-expected",
                findings=[Finding("not-expected", subject, "has a different digest", expected, digest)],
            )
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not click.confirm("sign this?", default=False, err=True):
            raise EnvironmentFailure("nothing was signed: the answer was no", code="declined")
        return
    if not looked_at:
        raise UsageError(
            "nothing was signed: there is no terminal to ask on",
            hint=f"if that is what you mean to sign: --expect sha256:{digest}",
            code="not-confirmed",
        )


def byte_progress() -> Progress:
    """A progress display for transfers (bytes done, total, elapsed), on stderr."""
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=err(),
    )


def step_progress() -> Progress:
    """A spinner with elapsed time for a step of unknown length, on stderr where that is a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = err()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def run(command: click.Command, name: str) -> NoReturn:
    """Run a click command as a program, and end with one of the exit codes.

    0 to 3 are the command's own and its errors'; 3 is an interrupt too; 70 is a bug (EX_SOFTWARE of
    sysexits.h). Errors are one line on stderr; with ``--json`` stdout has exactly one document.
    """
    forget_json()
    _open_closed_streams()
    try:
        code = _call(adopted(command), name)
        sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:
        code = 3 if _nobody_reads(error) else report_error(error, name)
    try:
        sys.stdout.flush()
    except OSError:
        # Otherwise Python flushes again at exit, complains, and exits with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _open_closed_streams() -> None:
    """Give a program that was started without stdin, stdout or stderr (``>&-``) one that leads nowhere.

    Otherwise there is none to write to, and the next file that is opened takes its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _call(command: Command, name: str) -> int:
    """click's ``main`` without its error handling, which turns a broken pipe into exit code 1."""
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    if instruction := os.environ.get(variable):
        return shell_complete(command, {}, name, variable, instruction)
    try:
        with command.make_context(name, sys.argv[1:]) as context:
            result = command.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return result if isinstance(result, int) else 0


def _nobody_reads(error: BaseException) -> bool:
    """Whether stdout is a closed pipe (``| head``), which is not worth a message."""
    if not isinstance(error, BrokenPipeError):
        return False
    stdout = select.poll()
    stdout.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in stdout.poll(0))


def report_error(error: BaseException, name: str) -> int:
    """Print an error as program ``name`` does, and return the exit code that goes with it."""
    failure = _failure(error)
    with contextlib.suppress(OSError):  # A full or closed stream does not change the exit code.
        if isinstance(error, click.ClickException):
            _show_usage(error)
        else:
            if failure.exit_code == BUG and os.environ.get("COATTEST_DEBUG") == "1":
                traceback.print_exception(error)
            err().print(f"{name}: {failure}", style="red")
    with contextlib.suppress(OSError):
        if _wants_json() and not json_printed():
            emit_json(failure.to_json())
    return failure.exit_code


def _show_usage(error: click.ClickException) -> None:
    """Show the parser's error as click does, but as text: a word of the line may be a hostile name."""
    shown, message = io.StringIO(), error.format_message()
    error.show(shown)
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        err().print(shown.getvalue(), end="")
        return
    # click takes some escape sequences out of what it shows where there is no terminal.
    plain = _one_line(message) if isinstance(error, click.MissingParameter) else printable(message)
    err().print(shown.getvalue().replace(click.unstyle(message), plain), end="")


def _one_line(message: str) -> str:
    """click's message of what is missing, which has a line for each value that may be chosen."""
    return printable(" ".join(message.split()))


class Bug(CoattestError):
    """An exception that no code of ours expects. Exit code 70."""

    exit_code = BUG
    default_code = "bug"

    def __str__(self) -> str:
        return f"{super().__str__()}; COATTEST_DEBUG=1 shows the traceback"


def _failure(error: BaseException) -> CoattestError:
    """The error that is reported for an exception of any kind."""
    if isinstance(error, CoattestError):
        return error
    if isinstance(error, click.ClickException):
        return _usage_error(error)
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return EnvironmentFailure("interrupted", code="interrupted")
    if isinstance(error, ModuleNotFoundError) and (failure := missing_extra(error)) is not None:
        return failure
    if isinstance(error, OSError):
        return from_os_error(error)
    return Bug(f"a bug in coattest: {type(error).__name__}: {error}")


def _usage_error(error: click.ClickException) -> UsageError:
    """The parser's error, with a finding for each missing parameter."""
    context = getattr(error, "ctx", None)
    names = error.names if isinstance(error, MissingParameters) else ()
    message = error.format_message()
    return UsageError(
        _one_line(message) if isinstance(error, click.MissingParameter) else message,
        where=context.command_path if context else None,
        hint=f"'{context.command_path} -h' lists what it takes" if context else None,
        findings=[Finding("missing-parameter", name, "required") for name in names],
    )


def _wants_json() -> bool:
    """Whether ``--json`` is on the command line before any ``--``, even if the line does not parse."""
    return "--json" in itertools.takewhile(lambda word: word != "--", sys.argv[1:])


def from_os_error(error: OSError) -> EnvironmentFailure:
    """The one-line failure for an operating system error, with a remedy for the common ones."""
    hints = {
        errno.ENOSPC: "free some space, or point COATTEST_CACHE, TMPDIR or --out at another disk",
        errno.EACCES: "check the permissions",
        errno.EPERM: "check the permissions",
        errno.EROFS: "name another place; of what is remembered, with COATTEST_CONFIG and COATTEST_STATE",
    }
    return EnvironmentFailure(
        error.strerror or type(error).__name__,
        where=str(error.filename) if error.filename else None,
        hint=hints.get(error.errno or 0),
        code=OS_ERRORS.get(error.errno or 0, "os-error"),
    )
