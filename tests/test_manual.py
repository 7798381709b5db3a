"""Man pages, shell completion and what ``--help`` costs: everything that comes from the parsers."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from coattest.codes import CODES
from coattest.command import PROGRAMS, cli
from support.command_tree import verbs

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
HEAVY = ("boto3", "botocore", "cryptography", "dulwich", "in_toto", "moto", "rich", "securesystemslib", "z3")


def load_man() -> ModuleType:
    """The generator, which is a script of the documentation and no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        return importlib.import_module("man")


man = load_man()


def program_of(name: str) -> Any:
    """The group of a program's verbs, or ``coattest`` itself."""
    return cli if name == "coattest" else cli.get_command(click.Context(cli), name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, written as the documentation says."""
    made = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, str(ROOT / "docs" / "man.py"), str(made)], check=True)
    return made


def test_every_command_has_a_page_with_its_options(folder: Path) -> None:
    """Programs, verbs and sub-verbs; each page names every option and the exit codes."""
    expected = set()
    for program in PROGRAMS:
        group = program_of(program)
        for path in verbs(group, (program,)):
            expected.add("-".join(path) + ".1")
            page = (folder / ("-".join(path) + ".1")).read_text()
            command = group
            for name in path[1:]:
                command = command.get_command(click.Context(command), name)
            for parameter in command.params:
                for option in parameter.opts if isinstance(parameter, click.Option) else ():
                    assert option.replace("-", "\\-") in page
            assert ".SH EXIT STATUS" in page
    assert {path.name for path in folder.iterdir()} == expected | {"coattest.1", "coattest-codes.7"}


def test_every_page_renders_without_a_warning(folder: Path) -> None:
    """groff with all warnings says nothing, and man shows the page."""
    if shutil.which("groff") is None or shutil.which("man") is None:
        pytest.skip("groff and man are not installed")
    for page in sorted(folder.iterdir()):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-z", str(page)], capture_output=True, text=True, check=True
        )
        assert (page.name, done.stderr) == (page.name, "")
    shown = subprocess.run(
        ["man", "-l", str(folder / "verify-receipt.1")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "MANWIDTH": "80"},
    ).stdout
    assert "--html FILE" in shown
    assert "EXIT STATUS" in shown


def test_the_page_of_codes_has_the_whole_registry(folder: Path) -> None:
    """Every code with its meaning, once; roff requests and escapes in a text are shown, not obeyed."""
    page = (folder / "coattest-codes.7").read_text()
    for code, meaning in CODES.items():
        assert page.count(f".B {man.escape(code)}\n{man.escape(meaning)}.\n") == 1
    assert man.escape(".a-b\\'") == "\\&.a\\-b\\e\\(aq"


def test_every_code_in_the_guides_is_registered() -> None:
    """The tables and lists under a heading `Codes` have no code that nothing prints."""
    found = set()
    for page in ("key-policies", "deployment", "quorum"):
        text = (ROOT / "docs" / f"{page}.md").read_text().partition("\n## Codes")[2]
        assert text
        cells = [
            line.split("|")[1] for line in text.splitlines() if line.startswith("| ") and "code |" not in line
        ]
        found |= {code for cell in cells for code in cell.replace(",", " ").split() if "AWS" not in cell}
        found |= set(re.findall(r"`([a-z0-9-]+)`", text)) if not cells else set()
    assert len(found) > 70
    assert found - set(CODES) == set()


@pytest.mark.parametrize("program", sorted({*PROGRAMS, "coattest"}))
def test_help_is_fast_and_names_every_verb(program: str) -> None:
    """``--help`` loads no library that a verb needs, and has the first words of each verb's own help."""
    code = (
        "import importlib, sys\n"
        f"module, name = {({**PROGRAMS, 'coattest': 'coattest.command:cli'}[program]).split(':')!r}\n"
        "getattr(importlib.import_module(module), name)(['--help'], standalone_mode=False)\n"
        f"print(*sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    group = program_of(program)
    context = click.Context(group)
    for name in group.list_commands(context):
        first = group.get_command(context, name).get_short_help_str(20).removesuffix("...").split()[0]
        assert any(line.split()[:2] == [name, first] for line in done.stdout.splitlines())


def complete(program: str, *words: str) -> list[str]:
    """What bash offers for the last of ``words``, by the script that click prints for it."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = subprocess.run(
        [program], env={**environment, variable: "bash_source"}, capture_output=True, text=True, check=True
    ).stdout
    function = f"_{program.replace('-', '_')}_completion"
    quoted = " ".join(f"'{word}'" for word in (program, *words))
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; {function} {program}"
    ask += "; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_bash_completes_verbs_and_options() -> None:
    """A verb's beginning, and an option's beginning of that verb."""
    assert complete("verify", "rec") == ["receipt"]
    assert complete("verify", "receipt", "--ht") == ["--html"]
    assert complete("deploy-from-attestation", "pl") == ["plan"]
    assert complete("coattest", "ver") == ["verify"]
    assert complete("coattest", "verify", "receipt", "--ht") == ["--html"]
    assert {"bid", "seal", "open"} <= set(complete("auction", ""))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize("program", sorted({*PROGRAMS, "coattest"}))
def test_other_shells_have_a_script(program: str, shell: str) -> None:
    """click prints it; the shell itself reads it where it is installed."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    script = subprocess.run(
        [BIN / program],
        env={**os.environ, variable: f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{variable}={shell}_complete" in script
    if (binary := shutil.which(shell)) is not None:
        subprocess.run([binary, "-n", "-c", script], check=True)
