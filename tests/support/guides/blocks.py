"""Reads the guides: every block of commands, who runs it, and what is said where a test does not run it.

A block is a fence ``console``; the word after it says who types it (in the tutorials the page does). Anywhere
else in a fence or an indented block, a command of a program that the guides use is an error of the page.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ("eif", "verify", "auction", "deploy-from-attestation", "nitro-local")
OTHERS = ("aws", "buildah", "cp", "curl", "docker", "make", "man", "nitro-cli", "pip", "python", "tox")
INSTALL = ["python3 -m venv coattest-venv", "coattest-venv/bin/pip install 'coattest @ git+URL@COMMIT'"]
"""The README's commands that install, with URL and COMMIT in the reader's place."""

PAGES = [*sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "attestations/README.md"]
"""The pages that have commands, from the root of the checkout."""

MARKER = re.compile(r"\*(Not run by a test|Run by CI): ([^*]+)\.\*")


@dataclass(frozen=True)
class Command:
    """One command of a block, and the exit code that the block expects of it."""

    text: str
    code: int

    @property
    def sets_variables(self) -> bool:
        """Whether it does nothing else, so that later blocks of the page can be given it again."""
        words = shlex.split(self.text)
        return len(words) == 1 and re.match(r"[A-Z_]+=", words[0]) is not None


@dataclass(frozen=True)
class Block:
    """A fenced block of commands: its page, who types it, the number of its step, and what it says.

    ``marker`` is None, or what stands below the block: ``Run by CI`` or ``Not run by a test``, and why.
    """

    page: str
    who: str
    step: int
    commands: tuple[Command, ...]
    marker: tuple[str, str] | None = None


def commands_in(lines: list[str]) -> tuple[Command, ...]:
    """The commands of a block: `$ ` starts one, a backslash continues it, `# exit N` precedes it."""
    found, code, text = [], 0, ""
    for line in lines:
        if text:
            text += "\n" + line
        elif match := re.fullmatch(r"# exit (\d)", line):
            code = int(match[1])
            continue
        else:
            assert line.startswith("$ "), line
            text = line[2:]
        if not text.endswith("\\"):
            found.append(Command(text, code))
            text, code = "", 0
    assert not text
    return tuple(found)


def indented(page: Path) -> list[str]:
    """The lines of a page's indented blocks."""
    return [line.strip() for line in page.read_text().splitlines() if line.startswith("    ")]


def is_command(line: str) -> bool:
    """Whether a line of a page is typed: it begins with `$ `, or with a program that the guides use."""
    if line.strip().startswith("$ "):
        return True
    words = line.strip().removeprefix(".venv/bin/").split()
    return len(words) > 1 and words[0] in PROGRAMS + OTHERS


def blocks_of(page: str) -> list[Block]:
    """Every block of a page, by its path from the root of the checkout."""
    blocks: list[Block] = []
    step, fence, lines, after = 0, None, [], False
    for line in (ROOT / page).read_text().splitlines():
        if fence is not None:
            if line != "```":
                lines.append(line)
                continue
            language, _, who = fence.partition(" ")
            if language == "console":
                blocks.append(Block(page, who, step, commands_in(lines)))
                after = True
            elif language == "bash":  # a script, run as a whole
                blocks.append(Block(page, who, step, (Command("\n".join(lines), 0),)))
            else:
                assert not any(is_command(each) for each in lines), (page, lines)
            fence = None
        elif line.startswith("```"):
            fence, lines, after = line[3:], [], False
        elif heading := re.match(r"## Step (\d+)", line):
            step = int(heading[1])
        elif after and (found := MARKER.match(line)):
            last = blocks.pop()
            blocks.append(Block(last.page, last.who, last.step, last.commands, (found[1], found[2])))
        else:
            assert not MARKER.search(line), (page, line)
            assert not line.startswith(("*Not run by", "*Run by")), (page, line)
            assert not (line.startswith("    ") and is_command(line)), (page, line)
        after = after and (fence is None) and not line.strip("`")
    assert fence is None
    return blocks
