"""Every page of the documentation: it can be found, its links lead somewhere, its commands exist."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from support.guides.blocks import ROOT, Command, blocks_of

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "attestations/README.md",
    "enclave/README.md",
)
LINKED = [*PAGES, *sorted(DOCS.glob("adr/*.md")), *(ROOT / page for page in OUTSIDE)]
NOT_OURS = {"docs/attestation_process.md"}
"""A path in AWS's repository that a page names as its source."""

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
CLI = {
    "eif": "coattest_build.cli",
    "verify": "coattest_verify.cli",
    "auction": "coattest_parent.cli.auction",
    "deploy-from-attestation": "coattest_parent.cli.deploy",
    "nitro-local": "coattest_local.cli",
}


def test_the_index_names_every_page_once() -> None:
    """A page that is in no part of the index would not be read. (It has links out of this folder too.)"""
    links = LINK.findall((DOCS / "README.md").read_text())
    pages = [link for link, _ in links if link.endswith(".md") and "/" not in link]
    assert sorted(pages) == [page.name for page in PAGES if page.name != "README.md"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[tuple[str, str]]:
    """The links of a page to a file that is not there, or to a heading that the file does not have."""
    found = []
    for link, anchor in LINK.findall(prose(page.read_text())):
        if "://" in link:
            continue
        target = page.parent / link if link else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append((link, anchor))
    return found


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A page or a heading that was renamed is noticed, in decisions and the pages outside docs/ too."""
    assert broken(page) == []


def test_the_index_of_decisions_names_each_once_by_its_title() -> None:
    """No decision is left out, and one that was renamed stands under its new title."""
    listed = re.findall(
        r"^- (\d+\. )\[([^]]+)\]\(([^)]+)\)", (DOCS / "adr" / "README.md").read_text(), re.MULTILINE
    )
    there = sorted(file.name for file in (DOCS / "adr").glob("[0-9]*.md"))
    assert sorted(name for _, _, name in listed) == there
    assert [
        name
        for number, title, name in listed
        if (DOCS / "adr" / name).read_text().splitlines()[0] != f"# {number}{title}"
    ] == []


RECORDS = sorted((DOCS / "adr").glob("[0-9]*.md"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_record_has_the_one_form(record: Path) -> None:
    """A date, then question, decision, why and consequence, each once, in about half a page."""
    text = record.read_text()
    title, _, date, *_ = text.splitlines()
    assert title.startswith(f"# {int(record.name[:4])}. ")
    assert re.fullmatch(r"Date: \d{4}-\d{2}-\d{2}", date)
    parts = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
    assert parts == ["Question", "Decision", "Why", "Consequence"]
    assert len(text.split()) <= 350


def test_ten_records_are_marked_as_the_first_to_read() -> None:
    """The index says which ten matter most, and that it does."""
    index = (DOCS / "adr" / "README.md").read_text()
    marked = re.findall(r"^- \d+\. \[[^]]+\]\([^)]+\) \*\*\(ten\)\*\*$", index, re.MULTILINE)
    assert len(marked) == 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """A path of this repository in a sentence (`docs/..`, `tests/..`, a room) leads to a file or folder."""
    named = re.findall(r"`([^`\s]+)`|\b(docs/[\w./-]+\w)", prose(page.read_text()))
    paths = {first or second for first, second in named}
    rooms = (
        "attestations/",
        "bench/",
        "build/",
        "docs/",
        "enclave/",
        "fuzz/",
        "local/",
        "parent/",
        "tests/",
        "verify/",
    )
    here = {path for path in paths if path.startswith(rooms) and not re.search(r"[<>*{]|\.\.", path)}
    assert {path for path in here if not (ROOT / path).exists()} - NOT_OURS == set()


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each of our commands in a page: in its blocks, and in its sentences."""
    path = str(page.relative_to(ROOT))
    blocks = blocks_of(path) if page in PAGES else []
    texts = [command.text for block in blocks for command in block.commands]
    texts += re.findall(r"`([^`]+)`", prose(page.read_text()))
    found = []
    for text in texts:
        line = re.sub(r"\s+", " ", text.replace("\\\n", " "))
        line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line.replace("$((", "(("))
        words = shlex.split(re.split(r" [<>|&]", line)[0]) if line.split()[0] in CLI else []
        if words:
            found.append(words)
    return found


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
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


def listed_verbs(text: str) -> list[str]:
    """The verbs in the first cells of a table: `verify log append`, then `cosign` for its neighbour."""
    found = []
    for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE):
        group = ""
        for name in re.findall(r"`([^`]*)`", cell):
            if name.partition(" ")[0] in CLI:
                group = name.rpartition(" ")[0]
                found.append(name)
            elif group:
                found.append(f"{group} {name}")
    return found


def verbs_below(command: click.Command, path: str) -> list[str]:
    """The path of every verb. The stages of a container build are one, which Dockerfile.reproducible uses."""
    if not isinstance(command, click.Group) or path == "eif stage":
        return [path]
    context, found = click.Context(command), []
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        found += verbs_below(below, f"{path} {name}")
    return found


def test_the_readme_has_every_verb_once() -> None:
    """A verb that was added, renamed or removed is noticed in the README's table."""
    there = [
        verb
        for program, module in CLI.items()
        for verb in verbs_below(importlib.import_module(module).cli, program)
    ]
    assert sorted(listed_verbs((ROOT / "README.md").read_text())) == sorted(there)


def test_the_contributors_table_has_every_environment_once() -> None:
    """What tox.ini has and CONTRIBUTING.md does not name would not be run."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini")
    names = {each.removeprefix("testenv:") for each in config.sections() if each.startswith("testenv:")}
    table = re.findall(r"^\| ([`a-z, -]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = [name for cell in table for name in re.findall(r"`([^`]*)`", cell)]
    assert sorted(listed) == sorted(name for name in names if "{" not in name)


def test_the_reader_of_links_reads(tmp_path: Path) -> None:
    """A missing file, and a heading that is in another case, in a code block or gone, are broken links."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c\n```\n# Not this\n```\n[1](#a-b-c) [2](no.md) [3](#not-this) [4](page.md#A-b-c)\n"
    )
    assert broken(page) == [("no.md", ""), ("", "not-this"), ("page.md", "A-b-c")]


def test_the_reader_of_commands_reads() -> None:
    """It finds commands in blocks, and those that a sentence names."""
    assert len(commands(DOCS / "tutorial-buyer.md")) > 15
    assert ["verify", "members", "show"] in commands(DOCS / "quorum.md")
    assert ["auction", "proxy", "--region", "REGION"] in commands(DOCS / "operations.md")


def test_what_the_comparison_says_was_run_is_run() -> None:
    """Each `(run: ..)` names an environment that CI runs, or a command of the tutorials."""
    named = re.findall(r"\(run: `([^`]+)`\)", (DOCS / "comparison.md").read_text())
    assert len(named) >= 5
    ci = (ROOT / ".ci" / "run").read_text()
    environments = set(" ".join(re.findall(r"for environment in ([^;]+);", ci)).split())
    environments |= set(re.findall(r"^ *(?:tox|twice) ([a-z-]+)", ci, re.MULTILINE))
    typed = "".join(command.text for page in ("buyer", "service") for command in of_tutorial(page))
    for name in named:
        found = name[7:] in environments if name.startswith("tox -e ") else name in typed
        assert found, name


def of_tutorial(reader: str) -> list[Command]:
    """The commands of a tutorial."""
    return [command for block in blocks_of(f"docs/tutorial-{reader}.md") for command in block.commands]


def test_the_enclaves_index_names_every_module_once() -> None:
    """Who reads in the order of enclave/README.md has read all of it."""
    rows = [
        line.split(" | ")[1]
        for line in (ROOT / "enclave" / "README.md").read_text().splitlines()
        if line.startswith("| ") and line[2].isdigit()
    ]
    named = []
    for row in rows:
        folder = ""
        for path in re.findall(r"`([a-z0-9_/]+\.py)`", row):
            folder = path.rpartition("/")[0] if "/" in path else folder
            named.append(path if "/" in path or not folder else f"{folder}/{path}")
    package = ROOT / "enclave" / "coattest_enclave"
    there = [str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(named) == sorted(there)
