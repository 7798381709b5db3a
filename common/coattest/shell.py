"""What every command shares: console, JSON, progress, clock, and the mapping from errors to exit codes.

Results go to stdout; prose, progress and errors go to stderr. ``NO_COLOR`` is honoured by rich.
"""

from __future__ import annotations

import ast
import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from coattest.errors import CoattestError, EnvironmentFailure
from coattest.jsontext import emit_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

OS_ERRORS = {
    number: errno.errorcode[number].lower()
    for number in (
        errno.EACCES, errno.EADDRINUSE, errno.EAGAIN, errno.EBUSY, errno.ECONNREFUSED, errno.EEXIST,
        errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC,
        errno.ENOTDIR, errno.EPERM, errno.EROFS,
    )
}  # fmt: skip
"""errno(3) and the code of an error for it; any other is ``os-error``."""

Decorator = Callable[[Any], Any]

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")

# rich is imported where it is used: `eif measure` needs none of it, and starts faster without.


def option_group(*options: Decorator) -> Decorator:
    """One decorator of several options, which stand in ``--help`` in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def utc_now() -> datetime:
    """Now, in UTC. Commands take the time here and hand it to code that has no clock."""
    return datetime.now(timezone.utc)


def out() -> Console:
    """The console for results (stdout)."""
    from coattest.console import PlainConsole  # noqa: PLC0415

    return PlainConsole()


def err() -> Console:
    """The console for prose, progress and errors (stderr)."""
    from coattest.console import PlainConsole  # noqa: PLC0415

    return PlainConsole(stderr=True)


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
    """A spinner with elapsed time for a step of unknown length, on stderr."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    return Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=err()
    )


def run(command: Callable[..., Any], name: str) -> None:
    """Run a click command as a program: errors become one line on stderr and an exit code."""
    try:
        result = command(prog_name=name, standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort:
        err().print("interrupted", style="red")
        sys.exit(3)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except CoattestError as error:
        _fail(name, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(3)
    except OSError as error:
        _fail(name, from_os_error(error))


def from_os_error(error: OSError) -> EnvironmentFailure:
    """The one-line failure for an operating system error, with a remedy for the common ones."""
    hints = {
        errno.ENOSPC: "free some space, or point COATTEST_CACHE or --out at another disk",
        errno.EACCES: "check the permissions",
        errno.EPERM: "check the permissions",
    }
    return EnvironmentFailure(
        error.strerror or type(error).__name__,
        where=str(error.filename) if error.filename else None,
        hint=hints.get(error.errno or 0),
        code=OS_ERRORS.get(error.errno or 0, "os-error"),
    )


def _fail(name: str, error: CoattestError) -> None:
    if "--json" in sys.argv:
        emit_json(error.to_json())
    err().print(f"{name}: {error}", style="red", markup=False)
    sys.exit(error.exit_code)


class LazyGroup(click.Group):
    """A command group that imports a verb's module only when the verb is used.

    ``lazy`` maps the verb to ``"package.module:attribute"``; it is the one list of a program's verbs.
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command behind a verb, imported on first use; None when there is no such verb."""
        if cmd_name in self.lazy:
            module, attribute = self.lazy[cmd_name].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every verb with its first sentence; no verb's module is imported for it."""
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names), default=0)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(ctx, name, limit)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin with ``incomplete``; no verb's module is imported for it."""
        verbs = [
            CompletionItem(name, help=self._summary(ctx, name, 60))
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        # click.Group's own method would import every verb to ask for its help; its parents' add the options.
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def _summary(self, ctx: click.Context, name: str, limit: int) -> str:
        """A verb's short help, from the docstring in its module's source where that is enough."""
        text = _docstring(*self.lazy[name].split(":")) if name in self.lazy else None
        command = click.Command(name, help=text) if text else self.get_command(ctx, name)
        return command.get_short_help_str(limit) if command else ""


def _docstring(module: str, function: str) -> str | None:
    """The docstring of a module's function, read without running the module; None when it is not there."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node)
    return None
