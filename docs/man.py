"""Man pages from the parsers: ``python docs/man.py DIR`` writes one page per program, verb and subject.

Nothing is written twice: names, options and defaults come from click, the descriptions are the commands' own,
and the reason codes are read from the source (``reasons.py``). So a page cannot be out of date.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
from reasons import OUTSIDE, Codes

PROGRAMS = {
    "eif": "coattest_build.cli",
    "verify": "coattest_verify.cli",
    "auction": "coattest_parent.cli.auction",
    "deploy-from-attestation": "coattest_parent.cli.deploy",
    "nitro-local": "coattest_local.cli",
}
EXITS = {
    0: "Done, or verified.",
    1: "Verified and found false.",
    2: "Usage: the request makes no sense, or a file that was given does not parse.",
    3: "The environment could not do it: network, disk, isolation, a service that is down.",
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


def options(command: click.Command, name: str) -> list[str]:
    """Every option and argument with its help, as ``--help`` lists them."""
    lines = [".SH OPTIONS"]
    context = click.Context(command, info_name=name)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None and isinstance(parameter, click.Argument):
            record = (parameter.make_metavar(context), "Argument.")
        if record is not None:
            lines += [".TP", f".B {escape(record[0])}", escape(" ".join(record[1].split())) or "\\&"]
    return lines


def exit_status() -> list[str]:
    """What the exit codes mean; the same for every command."""
    lines = [".SH EXIT STATUS"]
    for code, meaning in EXITS.items():
        lines += [".TP", f".B {code}", escape(meaning)]
    return [*lines, ".PP", "Reason codes of", ".B \\-\\-json", "are listed in", ".BR coattest\\-reasons (7)."]


def pages_of(program: str, command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """The pages of a command and of everything below it: file name and text."""
    name = "-".join((program, *path))
    called = " ".join((program, *path))
    context = click.Context(command, info_name=called)
    usage = " ".join(command.collect_usage_pieces(context))
    summary = command.get_short_help_str(limit=200).rstrip(".")
    lines = [*heading(name), ".SH NAME", f"{escape(name)} \\- {escape(summary)}", ".SH SYNOPSIS"]
    lines += [f".B {escape(called)}", escape(usage), ".SH DESCRIPTION", *description(command)]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS"]
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            assert below is not None
            lines += [
                ".TP",
                f".BR {escape(f'{name}-{verb}')} (1)",
                escape(below.get_short_help_str(limit=200)),
            ]
            yield from pages_of(program, below, (*path, verb))
    lines += [*options(command, called), *exit_status()]
    if path:
        lines += [".SH SEE ALSO", f".BR {escape('-'.join((program, *path[:-1])))} (1)"]
    yield f"{name}.1", "\n".join(lines) + "\n"


def reasons_page() -> str:
    """The page of all reason codes."""
    lines = [
        *heading("coattest-reasons", 7),
        ".SH NAME",
        "coattest\\-reasons \\- the reason codes of coattest\\(aqs commands",
        ".SH DESCRIPTION",
        "With",
        ".B \\-\\-json",
        "a command that fails prints an object with",
        ".IR error ,",
        ".IR where ,",
        ".I hint",
        "and",
        ".IR reason .",
        "The reason is one of the codes below, and stays the same when the words change.",
        "The numbers in brackets are the exit codes that can go with it. A code without a number",
        "stands in lists only: of failures, problems, differences, or files that do not count.",
        ".PP",
        escape(OUTSIDE),
        ".SH REASONS",
    ]
    for reason in Codes().reasons():
        exits = f" ({', '.join(map(str, reason.exit_codes))})" if reason.exit_codes else ""
        lines += [".TP", f".B {escape(reason.code)}{exits}"]
        lines += [".br\n".join(f"{escape(text)}\n" for text in reason.meanings).rstrip("\n") or "\\&"]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Every page, by file name."""
    made = {"coattest-reasons.7": reasons_page()}
    for program, module in PROGRAMS.items():
        made.update(pages_of(program, importlib.import_module(module).cli))
    return made


def main() -> None:
    """Write every page into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
