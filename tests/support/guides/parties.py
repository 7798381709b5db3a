"""The person who types the guides: nothing is there but a clone, a new home, and what the pages say."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from coattest_build.inputs.cache import cache_folder
from coattest_local.demo.chain import BUYERS
from coattest_local.demo.sources import copy_source
from support.guides.blocks import ROOT, Block, blocks_of
from support.guides.terminal import END, Terminal

SERVICE, CHECKOUT = "service", "checkout"
EVERYBODY = (SERVICE, *BUYERS)
WHO = {
    "buyers": BUYERS,
    "buyer-1": ("buyer-1",),
    "service": (SERVICE,),
    "everybody": EVERYBODY,
    "checkout": (CHECKOUT,),
}
TUTORIALS = {"docs/tutorial-buyer.md": BUYERS, "docs/tutorial-service.md": (SERVICE,)}
RUNS = "Ctrl-C ends it"
"""What `nitro-local up` says when it has started."""


class _Quiet(SimpleHTTPRequestHandler):
    """A server of files that writes no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextmanager
def repository(folder: Path) -> Iterator[tuple[str, str]]:
    """The URL and the commit of this checkout's HEAD, served over HTTP on loopback."""
    git("clone", "--quiet", "--bare", str(ROOT), str(folder / "coattest.git"))
    git("-C", str(folder / "coattest.git"), "update-server-info")
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        commit = git("-C", str(ROOT), "rev-parse", "HEAD").strip()
        try:
            yield f"http://127.0.0.1:{server.server_port}/coattest.git", commit
        finally:
            server.shutdown()


def git(*arguments: str) -> str:
    """What git prints; it must succeed."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def machine(home: Path) -> dict[str, str]:
    """The environment of a new user of this machine: nothing of coattest but the cache of downloads."""
    prefixes = ("PIP_", "SSL_CERT_", "COATTEST_DEBIAN")
    kept = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    return {
        **kept,
        "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        # pip's own settings, which say where its index is.
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),
        "COATTEST_CACHE": str(cache_folder().resolve()),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "MANPAGER": "cat",
    }


class Example:
    """The example of `nitro-local up --example`, with a terminal for each party."""

    def __init__(self, home: Path, url: str, commit: str) -> None:
        """Type what the tutorial begins with, in the folder ``home``, which is the user's home too."""
        self.home = home
        self.folder = home / "coattest-example"
        self.environment = machine(home)
        self.terminals: dict[str, Terminal] = {"you": Terminal(home, self.environment)}
        (first,) = (block for block in blocks_of("docs/tutorial-buyer.md") if block.who == "you")
        typed = [each.text.replace("URL", url).replace("COMMIT", commit) for each in first.commands]
        for text in typed[:-1]:
            self.terminals["you"].type(text)
        said = self.terminals["you"].start(typed[-1], RUNS).string
        for name, line in re.findall(r"^  (\S+) +(cd .+)$", said, re.MULTILINE):
            self.terminals[name] = Terminal(home, self.environment)
            self.terminals[name].type(line)
        assert set(self.terminals) == {"you", *EVERYBODY}, said

    @property
    def shared(self) -> Path:
        """The folder of the files that the parties exchange."""
        return self.folder / "shared"

    def type(self, block: Block, names: tuple[str, ...] | None = None) -> None:
        """Type a block in the terminals of those whom it names, or of ``names``."""
        for name in names or WHO[block.who]:
            self.type_in(self.terminals[name], block)

    def type_in(self, terminal: Terminal, block: Block) -> None:
        """Type a block in one terminal."""
        for command in block.commands:
            terminal.type(command.text, code=command.code)

    def tutorials(self, first: int, last: int) -> None:
        """Type those steps of both tutorials."""
        blocks = [(block, TUTORIALS[page]) for page in TUTORIALS for block in blocks_of(page)]
        for block, names in sorted(blocks, key=lambda each: each[0].step):
            if first <= block.step <= last:
                self.type(block, names)

    def variable(self, name: str, variable: str) -> str:
        """A variable of a party's shell."""
        return self.terminals[name].type(f'echo "${variable}"').strip()

    def close(self) -> None:
        """End whatever the pages left running, and write down what the terminals showed."""
        for name, terminal in self.terminals.items():
            if name == SERVICE:
                with contextlib.suppress(AssertionError):  # the terminal may hang where a page failed
                    terminal.start("deploy-from-attestation destroy --state deployment", END)
            if name == "you":
                with contextlib.suppress(AssertionError):
                    terminal.interrupt()
            terminal.close()
            if folder := os.environ.get("COATTEST_ARTIFACTS"):
                Path(folder).mkdir(parents=True, exist_ok=True)
                (Path(folder) / f"{name}.txt").write_text(
                    re.sub(f"{END}(\\d+){END}", lambda code: f"(exit {code[1]})\n", terminal.shown)
                )
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def checkout(example: Example) -> Iterator[Terminal]:
    """A terminal in a checkout with the environment that `make` would set up there."""
    source = example.home / "checkout"
    copy_source(ROOT, source)
    folder = source / ".venv"
    folder.mkdir()
    shutil.copyfile(Path(sys.prefix) / "pyvenv.cfg", folder / "pyvenv.cfg")
    for name in ("bin", "lib"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".ready-test").touch()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    config = str(example.home / "checkout-config")
    terminal = Terminal(source, {**example.environment, "PATH": path, "COATTEST_CONFIG": config})
    try:
        yield terminal
    finally:
        terminal.close()
        shutil.rmtree(source)


class Quorum:
    """docs/quorum.md: a quorum of its own, whose parties pull and push `attestations/` around each block."""

    def __init__(self, example: Example) -> None:
        self._example = example
        self._folder = example.home / "quorum"
        self._origin = self._folder / "attestations"
        released = self._origin / "releases" / "0.1.0"
        released.mkdir(parents=True)
        shutil.copy(example.shared / "attestations" / "releases" / "0.1.0" / "claim.json", released)
        (self._folder / "shared").mkdir()
        self._terminals: dict[str, Terminal] = {}
        for name in EVERYBODY:
            home = self._folder / name
            home.mkdir()
            variables = {
                "ME": name,
                "SHARED": str(self._folder / "shared"),
                "SOURCE": str(example.home / "coattest"),
            }
            path = f"{example.home / 'coattest-venv' / 'bin'}:{example.environment['PATH']}"
            own = {
                "PATH": path,
                "COATTEST_CONFIG": str(home / "config"),
                "COATTEST_STATE": str(home / "state"),
            }
            self._terminals[name] = Terminal(home, {**example.environment, **variables, **own})

    def type(self, block: Block) -> None:
        """Type a block in the terminals of those whom it names."""
        for name in WHO[block.who]:
            clone = self._folder / name / "attestations"
            mirror(self._origin, clone)
            if (members := clone / "quorum.toml").exists():
                digest = hashlib.sha256(members.read_bytes()).hexdigest()
                self._terminals[name].type(f"ROOT=${{ROOT-sha256:{digest}}}")
            self._example.type_in(self._terminals[name], block)
            mirror(clone, self._origin)

    def close(self) -> None:
        """Close the terminals."""
        for terminal in self._terminals.values():
            terminal.close()


def mirror(source: Path, target: Path) -> None:
    """Give ``target`` the files of ``source`` and no others; a file that is the same is left alone."""
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for path in list(target.rglob("*")):
        if path.is_file() and path.relative_to(target) not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = target / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
