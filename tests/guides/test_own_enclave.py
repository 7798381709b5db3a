"""docs/your-own-enclave.md, run as it stands: another payload, by an installed coattest, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coattest.text import parse_toml
from coattest_build import image
from coattest_build.inputs.cache import cache_folder
from support.build.own_enclave import EXAMPLE, make_mirror
from support.guides.blocks import ROOT, blocks_of
from support.guides.terminal import END, Terminal, at_a_terminal

START = "docs/start-an-enclave.md"
PAGE = "docs/your-own-enclave.md"
ME = "you@example.invalid"
BLOCKS = [block for block in blocks_of(PAGE) if block.marker is None]


def script() -> str:
    """The page's commands, each with the exit code that it is to have; a failure names its step."""
    lines = []
    for block in BLOCKS:
        for command in block.commands:
            # What the archive has today is not what this is about, and a newer kernel would be compiled.
            mirror = 'COATTEST_DEBIAN_MIRROR="$LOCKED_MIRROR" ' if command.text.startswith("eif lock") else ""
            lines.append(f"{mirror}{command.text}")
            failed = f'{{ echo "step {block.step}: exit $code" >&2; exit 99; }}'
            lines.append(f"code=$?; [ $code = {command.code} ] || {failed}")
    return "\n".join(lines)


@pytest.mark.image
@pytest.mark.timeout(600)
def test_the_page_leads_to_a_verified_document(tmp_path: Path) -> None:
    """Every command of the page has the exit code that the page expects; at the end the answer is there."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    prefixes = ("PIP_", "SSL_", "COATTEST_")
    kept = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COATTEST": str(ROOT),
        "COATTEST_CACHE": str(cache_folder().resolve()),
        "COATTEST_CONFIG": str(tmp_path / "config"),
        "LOCKED_MIRROR": make_mirror(tmp_path / "mirror"),
        # The page installs coattest itself; what coattest depends on is there already, from this environment.
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": ME for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    try:
        done = at_a_terminal(script(), tmp_path, environment)
    finally:
        if (left := tmp_path / "draw" / "run").exists():
            program = str(tmp_path / "venv/bin/nitro-local")
            subprocess.run([program, "terminate-enclave", "--directory", str(left)], check=False)
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.shown[-3000:]}"
    answer = (tmp_path / "draw/drawn/answer").read_text()
    assert re.fullmatch(r"(Ada|Grace|Edsger), one of 3 names with SHA-384 [0-9a-f]{96}\n", answer)
    assert f"drew: {answer.strip()}" in done.stdout
    installed = list((tmp_path / "venv").rglob("coattest_build/builder.py"))
    assert len(installed) == 1, "the commands were those of the page's own installation"


@pytest.mark.image
@pytest.mark.timeout(900)
def test_the_first_page_leads_from_nothing_to_a_verified_document(tmp_path: Path) -> None:
    """docs/start-an-enclave.md in a fresh folder: what is to be compared or typed again is shown whole."""
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "COATTEST_"))
    }
    terminal = Terminal(
        tmp_path,
        {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "TERM": "dumb",
            "COATTEST": str(ROOT),
            "COATTEST_CACHE": str(cache_folder().resolve()),
            # The page installs coattest itself; what coattest depends on comes from this environment.
            "PYTHONPATH": sysconfig.get_path("purelib"),
        },
    )
    try:
        for block in blocks_of(START):
            for command in block.commands:
                terminal.type(command.text, code=command.code)
    finally:
        shown = terminal.shown
        terminal.close()
        if (left := tmp_path / "hello/run").exists():
            program = str(tmp_path / "venv/bin/nitro-local")
            subprocess.run([program, "terminate-enclave", "--directory", str(left)], check=False)
        if folder := os.environ.get("COATTEST_ARTIFACTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "start-an-enclave.txt").write_text(shown.replace(END, "\n"))
    assert "Hello, Ada." in shown
    assert "…" not in shown
    assert len(list((tmp_path / "venv").rglob("coattest_build/starts/own/init/init.c"))) == 1


def fields(document: dict[str, Any]) -> Iterator[str]:
    """The fields of an image.toml, as the page writes them."""
    for key, value in document.items():
        if key == "files" or not isinstance(value, dict):
            yield key
        else:
            free = key == "profiles"
            yield from (f"{key}.{'NAME' if free and name != 'target' else name}" for name in value)


def rows(text: str) -> Iterator[str]:
    """The fields of the page's table; one that begins with a dot is of the table of the one before it."""
    for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE):
        table = ""
        for name in re.findall(r"`([^`]+)`", cell):
            yield f"{table}{name}" if name.startswith(".") else name
            table = name.partition(".")[0]


OTHERS = (
    "container",
    "container.network",
    "container.nsm",
    "kernel.profile",
    "run.network.connect",
    "run.network.listen",
    "run.nsm",
    "run.user",
    "run.workdir",
    "wheels.wanted",
)
"""Fields that coattest's own image.toml does not have."""


def test_the_page_has_every_field_of_an_image_file() -> None:
    """A field that image.toml gets or loses is noticed; coattest's own has all but OTHERS."""
    text = (ROOT / PAGE).read_text()
    _, _, after = text.partition("## image.toml, field by field")
    table, found, _ = after.partition("**Profiles.**")
    assert found
    document = parse_toml((ROOT / image.IMAGE_FILE).read_bytes(), max_size=1 << 20)
    assert sorted(rows(table)) == sorted({*fields(document), *OTHERS})


def test_the_page_quotes_the_example() -> None:
    """A quoted line that the example no longer has is noticed; optional fields may be left out."""
    (quoted,) = re.findall(r"```python\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    assert quoted in (EXAMPLE / "check.py").read_text()
    spec = image.load_spec(EXAMPLE)
    assert (spec.bytecode, spec.environment) == (None, ())
