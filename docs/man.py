"""Man pages from the parsers: ``python docs/man.py DIR`` writes one page per program, verb and subject.

Nothing is written twice: names, options, defaults and headings come from the parsers, the descriptions are
the commands' own, and the codes are the registry's (``coattest.codes``). So a page cannot be out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click

from coattest.codes import GROUPS
from coattest.command import PROGRAMS
from coattest.command import cli as coattest
from coattest.parser import Command, VerbGroup, adopted

EXITS = {
    0: "Done, or verified.",
    1: "Verified and found false.",
    2: "Usage: the request makes no sense, or a file that was given does not parse.",
    3: "Undecided, or the environment could not do it: network, disk, isolation, a service that is down.",
    70: "A bug in coattest; COATTEST_DEBUG=1 shows the traceback.",
}


def escape(text: str) -> str:
    """Text as roff shows it: nothing in it is a request, an escape or a hyphen that is no minus."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    safe = "".join(char if ord(char) < 128 else f"\\[u{ord(char):04X}]" for char in safe)
    return f"\\&{safe}" if safe.startswith(".") else safe


def heading(name: str, section: int = 1) -> list[str]:
    """The first line of a page. No date: the same parsers give the same page."""
    version = metadata.version("coattest")
    return [f'.TH "{escape(name.upper())}" {section} "" "coattest {version}" "coattest"']


def description(command: click.Command) -> list[str]:
    """The command's help, a paragraph each."""
    text = inspect.cleandoc(command.help or "").split("\f")[0]
    lines = []
    for paragraph in text.split("\n\n"):
        lines += [".PP", escape(" ".join(paragraph.split()))]
    return lines[1:] if lines else []


def options(command: Command, name: str) -> list[str]:
    """Every option with its help, as ``--help`` lists them."""
    lines = [".SH OPTIONS"]
    context = click.Context(command, info_name=name)
    for title, records in command.option_sections(context).items():
        lines += [f'.SS "{escape(title)}"'] if title != "Options" else []
        for option, text in records:
            lines += [".TP", f".B {escape(option)}", escape(" ".join(text.split())) or "\\&"]
    return lines


def exit_status() -> list[str]:
    """What the exit codes mean; the same for every command."""
    lines = [".SH EXIT STATUS"]
    for code, meaning in EXITS.items():
        lines += [".TP", f".B {code}", escape(meaning)]
    return [*lines, ".PP", "The codes of", ".B \\-\\-json", "are listed in", ".BR coattest\\-codes (7)."]


def page(name: str, called: str, command: Command, verbs: list[str]) -> str:
    """The page of one command; ``verbs`` are the lines about what is below it."""
    usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=called)))
    summary = command.get_short_help_str(limit=1000).rstrip(".")
    lines = [*heading(name), ".SH NAME", f"{escape(name)} \\- {escape(summary)}", ".SH SYNOPSIS"]
    lines += [f".B {escape(called)}", escape(usage), ".SH DESCRIPTION", *description(command), *verbs]
    lines += [*options(command, called), *exit_status()]
    if called != name:
        lines += [".SH SEE ALSO", f".BR {escape(called.rpartition(' ')[0].replace(' ', '-'))} (1)"]
    return "\n".join(lines) + "\n"


def verbs_of(group: VerbGroup, prefix: str) -> list[str]:
    """What a group's page says of its verbs, whose pages are named with ``prefix``."""
    lines = [".SH COMMANDS"]
    for title, rows in group.verb_sections(click.Context(group)).items():
        lines += [f'.SS "{escape(title)}"'] if title != "Commands" else []
        for verb, summary in rows:
            lines += [".TP", f".BR {escape(f'{prefix}{verb}')} (1)", escape(summary)]
    return lines


def pages_of(program: str, command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """The pages of a command and of everything below it: file name and text."""
    name = "-".join((program, *path))
    verbs = []
    if isinstance(command, VerbGroup):
        verbs = verbs_of(command, f"{name}-")
        context = click.Context(command)
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            assert below is not None
            yield from pages_of(program, adopted(below), (*path, verb))
    yield f"{name}.1", page(name, " ".join((program, *path)), command, verbs)


def codes_page() -> str:
    """The page of all codes, by what they are about."""
    lines = [
        *heading("coattest-codes", 7),
        ".SH NAME",
        "coattest\\-codes \\- the codes of errors and findings",
        ".SH DESCRIPTION",
        "With",
        ".B \\-\\-json",
        "a command that fails prints an object with",
        ".IR error ,",
        ".IR where ,",
        ".I hint",
        "and",
        ".IR code ,",
        "and with",
        ".I findings",
        "where several things are wrong; each of those has a code too.",
        "A code keeps its meaning when the words change. AWS's own code, where there is one, is",
        ".IR service_code .",
    ]
    for title, codes in GROUPS.items():
        lines += [f".SH {escape(title.upper())}"]
        for code, meaning in sorted(codes.items()):
            lines += [".TP", f".B {escape(code)}", escape(f"{meaning}.")]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Every page, by file name."""
    made = {
        "coattest-codes.7": codes_page(),
        "coattest.1": page("coattest", "coattest", coattest, verbs_of(coattest, "")),
    }
    for program in PROGRAMS:
        command = coattest.get_command(click.Context(coattest), program)
        assert command is not None
        made.update(pages_of(program, adopted(command)))
    return made


def main() -> None:
    """Write every page into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
