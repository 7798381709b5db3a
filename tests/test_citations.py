"""Every source that a comment, a docstring or a page names is there: a record, a page, a file, a module."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "attestations",
    "bench",
    "build",
    "common",
    "docs",
    "enclave",
    "fuzz",
    "local",
    "parent",
    "tests",
    "verify",
)
"""Where the project's files lie; a path that begins with one of them is a path of this repository."""

KINDS = {".py", ".md", ".toml", ".c", ".h", ".js", ".config", ".ini", ".sh", ".yaml", ".yml"}
"""Endings of files that people write. Data (JSON, vectors, documents) cites nothing."""

RECORD = re.compile(r"\bADRs? 0*(\d+)\b|\badr/(\d{4})\b")
PATH = re.compile(rf"(?<![\w/.:$-])((?:{'|'.join(FOLDERS)})/[\w./+-]*\w)(?![\w*<{{])")
MODULE = re.compile(r"(?<![\w./-])coattest(?:_\w+)?(?:\.[A-Za-z_]\w*)+")
HEADING = re.compile(r"\b(docs/[\w-]+\.md), \"([^\"]+)\"")
PRIVATE = re.compile(rf"\b({'|'.join(('DES' + 'IGN', 'FA' + 'CTS', 'HO' + 'USE', 'ST' + 'YLE'))})\b")
"""Names of working notes that no reader of the repository has. (Put together, so that this file passes.)"""

NOT_HERE = {
    "docs/attestation_process.md": "AWS's aws-nitro-enclaves-nsm-api",
    "docs/vsock.md": "AWS's aws-nitro-enclaves-cli",
    "build/__init__.py": "what must not be there",
}
"""What is cited and is rightly not in this repository."""


def written(root: Path) -> Iterator[Path]:
    """The files below ``root`` that people write, without what begins with a dot."""
    places = [root / name for name in FOLDERS]
    found = [*root.glob("*"), *(file for place in places for file in place.rglob("*"))]
    for file in sorted(found):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(root).parts)
        if file.is_file() and not hidden and (file.suffix in KINDS or file.name == "Makefile"):
            yield file


def spoken(text: str, suffix: str) -> str:
    """What a file says to its readers: comments and docstrings of Python, pages without fences, else all."""
    if suffix == ".md":
        return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    if suffix != ".py":
        return text
    return "\n".join([comments(text), *texts(text)[0]])


@functools.lru_cache(maxsize=1)  # of a file it is asked for twice
def comments(text: str) -> str:
    """The comments of a Python file, joined: a sentence may go over several."""
    if "#" not in text:
        return ""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(token.string.lstrip("#:").strip() for token in tokens if token.type == tokenize.COMMENT)


@functools.lru_cache(maxsize=1)
def texts(text: str) -> tuple[list[str], list[str]]:
    """The docstrings of a Python file, and every text in it: what is in one may be shown to somebody."""
    docstrings, strings = [], []
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else node
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            (strings if value is node else docstrings).append(value.value)
    return docstrings, strings


def module_is_there(root: Path, name: str) -> bool:
    """Whether a dotted name is a package, a module, or what one of them defines or imports."""
    package, *rest = name.split(".")
    places = [place for place in root.glob(f"*/{package}") if place.is_dir()]
    if not places:
        return False
    place = places[0]
    for index, part in enumerate(rest):
        if (place / part).is_dir():
            place = place / part
            continue
        file = place / f"{part}.py"
        attribute = rest[index + 1 : index + 2] if file.exists() else [part]
        file = file if file.exists() else place / "__init__.py"
        return not attribute or (file.exists() and bool(re.search(rf"\b{attribute[0]}\b", file.read_text())))
    return True


def heading_is_there(page: Path, heading: str) -> bool:
    """Whether a page has a heading that begins so. (A page that is not there is another fault.)"""
    if not page.exists():
        return True
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return any(title.startswith(heading) for title in headings)


def dead(root: Path, file: Path) -> list[str]:
    """The citations of a file that lead nowhere, as they stand there."""
    text = file.read_text()
    said = spoken(text, file.suffix)
    # An example's tree is a repository of its own.
    bases = [root, *(place for place in file.parents if (place / "build" / "image.toml").exists())]
    found = []
    for match in RECORD.finditer(said):
        if not list(root.glob(f"docs/adr/{int(match[1] or match[2]):04}-*.md")):
            found.append(match[0])
    for match in PATH.finditer(said):
        path = match[1]
        whole = path.startswith("docs/adr/") and re.fullmatch(r"docs/adr/\d{4}", path)
        made_up = ".." in path or whole or path in NOT_HERE
        if not made_up and not any((base / path).exists() for base in bases):
            found.append(path)
    names = [match[0] for match in MODULE.finditer(said)]
    found += [name for name in names if name not in NOT_HERE and not module_is_there(root, name)]
    found += [match[0] for match in HEADING.finditer(said) if not heading_is_there(root / match[1], match[2])]
    private = "\n".join([comments(text), *texts(text)[1]]) if file.suffix == ".py" else text
    return found + [match[0] for match in PRIVATE.finditer(private)]


FILES = list(written(ROOT))


@pytest.mark.parametrize("folder", sorted({file.relative_to(ROOT).parts[0] for file in FILES}))
def test_every_citation_leads_somewhere(folder: str) -> None:
    """A record, page, file, heading or module that was renamed or removed is cited nowhere any more."""
    files = [file for file in FILES if file.relative_to(ROOT).parts[0] == folder]
    wrong = {str(file.relative_to(ROOT)): dead(ROOT, file) for file in files}
    assert {name: citations for name, citations in wrong.items() if citations} == {}


def test_what_is_not_here_is_not_here() -> None:
    """An exception that became a file of the repository is no exception."""
    assert [path for path in NOT_HERE if (ROOT / path).exists()] == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository with one record, one page, one module."""
    (tmp_path / "docs" / "adr").mkdir(parents=True)
    (tmp_path / "docs" / "adr" / "0007-why.md").write_text("# 7. Why\n")
    (tmp_path / "docs" / "page.md").write_text("# Page\n\n## A part: more\n")
    (tmp_path / "verify" / "coattest_verify" / "room").mkdir(parents=True)
    (tmp_path / "verify" / "coattest_verify" / "room" / "one.py").write_text("def count() -> None: ...\n")
    return tmp_path


LIVE = [
    "See ADR 7 and docs/adr/0007.",
    "See ADR 0007, docs/page.md, and docs/adr/0007-why.md.",
    'See docs/page.md, "A part".',
    "See ``coattest_verify.room.one`` and coattest_verify.room.one.count, in verify/coattest_verify.",
    "See docs/attestation_process.md of AWS, docs/page..md, build/*.py and $X/docs/none.md.",
]
PLANTED = {
    "See ADR 8.": ["ADR 8"],
    "See docs/adr/0008-gone.md.": ["adr/0008", "docs/adr/0008-gone.md"],
    "See docs/gone.md, section 2.": ["docs/gone.md"],
    "See verify/coattest_verify/room/two.py": ["verify/coattest_verify/room/two.py"],
    'See docs/page.md, "Another part".': ['docs/page.md, "Another part"'],
    "See ``coattest_verify.room.two``.": ["coattest_verify.room.two"],
    "See ``coattest_verify.room.one.sum``.": ["coattest_verify.room.one.sum"],
    "A limit (" + "FA" + "CTS, section 9).": ["FA" + "CTS"],
    "As " + "DES" + "IGN says.": ["DES" + "IGN"],
}


@pytest.mark.parametrize("text", LIVE)
@pytest.mark.parametrize(
    ("name", "form"),
    [("a.py", '"""{}"""\n'), ("b.py", "x = 1  # {}\n"), ("c.md", "{}\n"), ("d.c", "/* {} */\n")],
)
def test_a_live_citation_passes(tree: Path, name: str, form: str, text: str) -> None:
    """What is there may be cited, in whatever kind of file."""
    file = tree / "tests" / name
    file.parent.mkdir()
    file.write_text(form.format(text.replace('"', "'") if name == "a.py" else text))
    assert dead(tree, file) == []
    assert file in written(tree)


@pytest.mark.parametrize("text", PLANTED)
@pytest.mark.parametrize(
    ("name", "form"),
    [("a.py", "'''{}'''\n"), ("b.py", "x = 1  # {}\n"), ("c.md", "{}\n"), ("d.c", "/* {} */\n")],
)
def test_a_planted_dead_citation_is_found(tree: Path, name: str, form: str, text: str) -> None:
    """The check would fail on each kind of dead citation, in a docstring, a comment and a page."""
    file = tree / "tests" / name
    file.parent.mkdir()
    file.write_text(form.format(text))
    assert dead(tree, file) == PLANTED[text]


def test_code_and_fences_are_not_citations(tree: Path) -> None:
    """A path that a test makes up, or that a page types, is no source; a note's name in a message is one."""
    code = tree / "code.py"
    code.write_text("path = 'docs/gone.md'\n")
    page = tree / "page.md"
    page.write_text("```\n$ cat docs/gone.md\n```\n")
    message = tree / "message.py"
    message.write_text(f"raise ValueError('see {'HO' + 'USE'}')\n")
    assert (dead(tree, code), dead(tree, page), dead(tree, message)) == ([], [], ["HO" + "USE"])
