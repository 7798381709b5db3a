"""Every page of the documentation: it can be found, its links lead somewhere, its commands exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
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


def test_the_reader_of_commands_reads() -> None:
    """It finds the commands of the tutorials and of a page that shows them indented."""
    assert len(commands(DOCS / "tutorial-buyer.md")) > 15
    assert ["verify", "quorum-policy"] in commands(DOCS / "quorum.md")
