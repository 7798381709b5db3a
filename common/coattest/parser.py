"""The classes of the command line: what every verb has by default.

``-h`` beside ``--help``; options and verbs under headings, their first sentence whole; "did you mean" for
verbs as for options; everything that is required and missing in one error; verbs whose modules are imported
when they are used. A plain click command becomes one of these where a group hands it out (``adopted``), so a
verb is written with ``@click.command()`` as everywhere.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from coattest.errors import UsageError
from coattest.extras import need_extra
from coattest.files import require_writable
from coattest.programs.apart import FLAG, require_apart

Decorator = Callable[[Any], Any]

HELP_NAMES = ("-h", "--help")
WHOLE = 1_000
"""Characters of a first sentence: more than any has, so that none is cut off."""


class NamedPath(click.Path):
    """A file or folder that somebody named. ``''`` is what a shell makes of ``"$OUT"`` without OUT; it would
    be the folder where the command runs.
    """

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path. Raises BadParameter as click.Path, and for an empty name."""
        if value == "":
            self.fail("an empty name (is a variable not set? '.' is the folder here)", param, ctx)
        return super().convert(value, param, ctx)


class NewPath(NamedPath):
    """A file or folder that the command writes: where it cannot be is said before the work, not after."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path. Raises as ``require_writable``, and BadParameter as NamedPath and for ``-``."""
        if value == "-":
            self.fail("'-' would be a file of that name, not stdout: './-' if you mean it", param, ctx)
        path = super().convert(value, param, ctx)
        require_writable(Path(os.fsdecode(path)), folder=not self.file_okay)
        return path


NEW_FILE = NewPath(dir_okay=False, path_type=Path)
NEW_FOLDER = NewPath(file_okay=False, path_type=Path)


class MissingParameters(click.UsageError):
    """Several required options or arguments are missing; ``names`` has all of them."""

    def __init__(self, missing: Sequence[click.Parameter], ctx: click.Context) -> None:
        words = [f"{each.param_type_name} {each.get_error_hint(ctx)}" for each in missing]
        super().__init__(f"Missing {', '.join(words[:-1])} and {words[-1]}.", ctx)
        self.names = tuple(
            each.opts[0] if isinstance(each, click.Option) else each.human_readable_name for each in missing
        )


def option_group(*options: Decorator, heading: str | None = None) -> Decorator:
    """One decorator of several options, which stand in ``--help`` in this order, under ``heading``."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command, added = _with_option(command, option)
            for parameter in added:
                if heading is not None:
                    vars(parameter).setdefault("heading", heading)
        return command

    return decorate


def needs_extra(extra: str) -> Decorator:
    """The command needs an extra: without it everything but ``--help`` says so (``missing-extra``)."""

    def decorate(command: Any) -> Any:
        vars(command)["extra"] = extra
        return command

    return decorate


def judged_folder(option: Decorator) -> Decorator:
    """The option names a folder that somebody else wrote: coattest may not come out of it (``not-apart``).

    Every command with such an option has ``--this-checkout-is-mine`` too.
    """
    return _kept_apart(option, "folder")


def signing_key(option: Decorator) -> Decorator:
    """The command signs with the option's key.

    Where it judges no folder, coattest may not come out of the checkout that the current folder is in.
    """
    return _kept_apart(option, "key")


def _kept_apart(option: Decorator, kind: str) -> Decorator:
    def decorate(command: Any) -> Any:
        command, added = _with_option(command, option)
        for parameter in added:
            vars(parameter)["apart"] = kind
        return command

    return decorate


def _own_checkout(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.meta[FLAG] = value


OWN_CHECKOUT = click.Option(
    [FLAG],
    is_flag=True,
    expose_value=False,
    callback=_own_checkout,
    help="Let coattest judge the checkout that it is installed in: your own, and nobody else's.",
)
"""What every command has that judges a folder or signs."""


def refuse_ignored(names: Iterable[str], why: str) -> None:
    """Refuse options of the running command that would do nothing: who gives one believes that it does.

    ``names`` are their names in Python; only those on the command line count. Raises UsageError.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    wanted = set(names)
    given = [
        each.opts[0] if isinstance(each, click.Option) else each.human_readable_name
        for each in context.command.params
        if each.name in wanted and context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(f"{', '.join(given)} would do nothing {why}", hint="leave it out")


def _with_option(command: Any, option: Decorator) -> tuple[Any, list[click.Parameter]]:
    """The command or function with one more option, or several, and these."""
    earlier = list(map(id, _parameters(command)))
    command = option(command)
    return command, [each for each in _parameters(command) if id(each) not in earlier]


def _parameters(command: Any) -> list[click.Parameter]:
    """The parameters that decorators have put on a function or command so far."""
    if isinstance(command, click.Command):
        return command.params
    found: list[click.Parameter] = getattr(command, "__click_params__", [])
    return found


def _write_sections(
    formatter: click.HelpFormatter, sections: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(rows)


def adopted(command: click.Command) -> Command:
    """The command as one of the classes here, with the same name, options, callback and verbs."""
    if isinstance(command, Command):
        return command
    kind = VerbGroup if isinstance(command, click.Group) else Command
    made = kind.__new__(kind)
    vars(made).update(vars(command))
    return made


class Command(click.Command):
    """A verb."""

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """``-h`` and ``--help``, except a name that one of the command's options has."""
        taken = {name for parameter in self.params for name in parameter.opts}
        return [name for name in HELP_NAMES if name not in taken]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """click's, and ``--this-checkout-is-mine`` where it means something."""
        found = super().get_params(ctx)
        if not any("apart" in vars(each) for each in self.params):
            return found
        own = len(self.params)
        return [*found[:own], OWN_CHECKOUT, *found[own:]]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises EnvironmentFailure (``not-apart``) when it would judge its own home."""
        judging = [each for each in self.params if "apart" in vars(each)]
        if judging and not ctx.meta.get(FLAG):
            folders = [each.name for each in judging if each.name and vars(each)["apart"] == "folder"]
            require_apart([path for name in folders for path in _folders(ctx, name)])
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, but name all missing parameters at once, and a missing extra before them.

        Raises click.UsageError and EnvironmentFailure. ``--help`` needs no extra.
        """
        words = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.UsageError as error:
            self._need_extra(ctx)
            if error.ctx is None:  # as where an option's value is missing
                raise click.UsageError(error.format_message(), ctx) from None
            if not isinstance(error, click.MissingParameter):
                raise
            missing = self._missing(ctx, words)
            if len(missing) < 2:
                raise
            raise MissingParameters(missing, ctx) from None
        self._need_extra(ctx)
        return rest

    def _need_extra(self, ctx: click.Context) -> None:
        extra = vars(self).get("extra")
        if extra is not None and not ctx.resilient_parsing:
            need_extra(extra)

    def _missing(self, ctx: click.Context, words: list[str]) -> list[click.Parameter]:
        given = self.make_parser(ctx).parse_args(words)[0]
        return [
            parameter
            for parameter in self.get_params(ctx)
            if parameter.required and parameter.value_is_missing(parameter.consume_value(ctx, given)[0])
        ]

    def option_sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Heading to (option, help): the verb's own options first, then those under a heading."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(vars(parameter).get("heading", "Options"), []).append(record)
        return {heading: records for heading, records in sections.items() if records}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every option with its help, under its heading; arguments are explained by the command's text."""
        _write_sections(formatter, self.option_sections(ctx))


def _folders(ctx: click.Context, name: str) -> list[Path]:
    """An option's folders; not a default that is not there, as where a bundle was given instead."""
    value = ctx.params[name]
    several = value if isinstance(value, tuple) else (value,)
    found = [Path(each) for each in several if each is not None]
    given = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    return [each for each in found if given or each.exists()]


class VerbGroup(Command, click.Group):
    """A group of verbs; ``headings`` maps each heading of the help to its verbs, in the order of the help."""

    def __init__(
        self, *args: Any, headings: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.headings = headings or {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command behind a verb; None when there is no such verb."""
        command = super().get_command(ctx, cmd_name)
        return adopted(command) if command else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb named on the command line. Raises click.UsageError, with verbs of similar names if any."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or name in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, self.list_commands(ctx))
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, then the group's own options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def verb_sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Heading to (verb, its first sentence); verbs without a heading come last, under "Commands"."""
        names = [name for name in self.list_commands(ctx) if not self._hidden(name)]
        sections = {heading: list(verbs) for heading, verbs in vars(self).get("headings", {}).items()}
        headed = {name for verbs in sections.values() for name in verbs}
        sections["Commands"] = [name for name in names if name not in headed]
        rows = {
            heading: [(name, self._summary(ctx, name)) for name in verbs if name in names]
            for heading, verbs in sections.items()
        }
        return {heading: verbs for heading, verbs in rows.items() if verbs}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every verb with its first sentence, under its heading."""
        _write_sections(formatter, self.verb_sections(ctx))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs and options that begin with ``incomplete``."""
        verbs = [
            CompletionItem(name, help=self._summary(ctx, name))
            for name in self.list_commands(ctx)
            if name.startswith(incomplete) and not self._hidden(name)
        ]
        # click.Group's own method would import every verb to ask for its help; its parents' add the options.
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def _hidden(self, name: str) -> bool:
        return name in self.commands and self.commands[name].hidden

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(WHOLE) if command else ""


class LazyGroup(VerbGroup):
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
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name].split(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            if not ctx.resilient_parsing:
                raise
            return None  # Completion says nothing about a verb whose extra is missing.
        return adopted(command)

    def _summary(self, ctx: click.Context, name: str) -> str:
        """A verb's first sentence, from the docstring in its module's source where that is enough."""
        text = _docstring(*self.lazy[name].split(":")) if name in self.lazy else None
        if text is None:
            return super()._summary(ctx, name)
        return click.Command(name, help=text).get_short_help_str(WHOLE)


def _docstring(module: str, function: str) -> str | None:
    """The docstring of a module's function, read without running the module; None when it is not there."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node)
    return None
