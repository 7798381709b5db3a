"""Every page of the documentation: it can be found, its links lead somewhere, its commands exist."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
CLI = {
    "eif": "coattest_build.cli",
    "verify": "coattest_verify.cli",
    "auction": "coattest_parent.auction_cli",
    "deploy-from-attestation": "coattest_parent.deploy_cli",
    "nitro-local": "coattest_local.cli",
}


def test_the_index_names_every_page_once() -> None:
    """A page that is in no part of the index would not be read."""
    links = LINK.findall((DOCS / "README.md").read_text())
    pages = [link for link in links if link.endswith(".md")]
    assert sorted(pages) == [page.name for page in PAGES if page.name != "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Relative links only; a page that was renamed is noticed."""
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (DOCS / link).exists()] == []


def commands(page: Path) -> list[list[str]]:
    """The words of each of our commands in a page's fenced and indented blocks."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    lines = re.findall(r"^(?:\$ |    (?:\$ )?)((?:[A-Z_]+=\S+ )*[a-z-]+ .*)$", text, re.MULTILINE)
    found = []
    for line in lines:
        words = shlex.split(
            re.sub(r"\s#.*", "", re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)).replace("$((", "((")
        )
        if words and words[0] in CLI:
            found.append(words)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    """A verb or an option that was renamed is noticed, in pages that are not run too."""
    for words in commands(page):
        command = importlib.import_module(CLI[words[0]]).cli
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            below = command.get_command(click.Context(command), rest[0])
            assert below is not None, words
            command, rest = below, rest[1:]
        known = {
            option for parameter in command.params for option in parameter.opts + parameter.secondary_opts
        }
        known |= {"--help", "--version"}
        used = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert used - known == set(), (page.name, words)


def rows(text: str) -> dict[str, list[str]]:
    """The verbs after each program in the first cells of a table: `program verb`, `verb`, .."""
    found: dict[str, list[str]] = {}
    for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE):
        program, *verbs = " ".join(re.findall(r"`([^`]*)`", cell)).split()
        if program in CLI:
            found.setdefault(program, []).extend(verbs)
    return found


def test_the_readme_has_every_verb_once() -> None:
    """A verb that was added, renamed or removed is noticed in the README's table."""
    listed = rows((ROOT / "README.md").read_text())
    for program, module in CLI.items():
        group = importlib.import_module(module).cli
        assert sorted(listed.get(program, [])) == sorted(group.list_commands(click.Context(group)))


def test_the_contributors_table_has_every_environment_once() -> None:
    """What tox.ini has and CONTRIBUTING.md does not name would not be run."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini")
    names = {each.removeprefix("testenv:") for each in config.sections() if each.startswith("testenv:")}
    table = re.findall(r"^\| ([`a-z, -]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = [name for cell in table for name in re.findall(r"`([^`]*)`", cell)]
    assert sorted(listed) == sorted(name for name in names if "{" not in name)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "attestations/README.md"])
def test_links_outside_the_documentation_lead_to_files(page: str) -> None:
    """The pages that a reader sees first link to what is there."""
    path = ROOT / page
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_reader_of_commands_reads() -> None:
    """It finds the commands of the tutorials and of a page that shows them indented."""
    assert len(commands(DOCS / "tutorial-buyer.md")) > 15
    assert ["verify", "quorum-policy"] in commands(DOCS / "quorum.md")
