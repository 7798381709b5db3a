"""The demo's stage: the parties, how a party runs a command, and what the audience reads.

Every party is a separate process with its own directory, home, time zone, locale and umask; what they share
are files, as they would over any channel. A step that fails ends the demo.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest.programs.environment import program_environment, python_program
from coattest.programs.start import ProgramLimits, run_program
from coattest_build.inputs.cache import cache_folder

INHERITED = ("COATTEST_DEBIAN_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "PIP_", "SSL_CERT_")
"""What a party's command has of this process's environment: where to download from."""

COMMAND_SECONDS = 3 * 3600.0
"""Seconds for one command; compiling a kernel on one slow processor takes most of an hour."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that ended: its exit code, its JSON document (None when there was none) and its errors."""

    code: int
    document: Any
    errors: str


@dataclass(slots=True)
class Stage:
    """Tells the audience what happens, on stderr, and keeps count of steps and refusals."""

    console: Console
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    refusals: int = 0
    short: dict[str, str] = field(default_factory=dict)

    def step(self, title: str) -> None:
        """Announce the next step."""
        self.steps += 1
        elapsed = time.monotonic() - self.started
        self.console.print(
            f"\n[bold]{self.steps}. {escape(title)}[/bold] [dim]({elapsed:.0f} s)[/dim]", markup=True
        )

    def say(self, text: str) -> None:
        """A line of prose under the step."""
        self.console.print(f"   {text}")

    def abbreviate(self, name: str, words: Sequence[str]) -> None:
        """From now on show commands with ``name`` in place of these words, as if it were a shell variable."""
        self.short[shlex.join(words)] = name
        self.say(f"{name} below stands for: {self._shorten(shlex.join(words), skip=name)}")

    def command(self, party: str, argv: Sequence[str]) -> None:
        """Show a command as the party would type it."""
        self.console.print(
            f"   [dim]{escape(party)} $ {escape(self._shorten(shlex.join(argv)))}[/dim]", markup=True
        )

    def _shorten(self, text: str, skip: str = "") -> str:
        for words in sorted(self.short, key=len, reverse=True):
            text = text if self.short[words] == skip else text.replace(words, self.short[words])
        return text

    def refused(self, what: str, why: str) -> None:
        """Report an attack that was refused, and why."""
        self.refusals += 1
        self.console.print(
            f"   [green]refused[/green] {escape(what)}: {escape(self._shorten(why))}", markup=True
        )


@dataclass(frozen=True, slots=True)
class Party:
    """A party with a machine of its own: a directory, and the settings its processes run under."""

    name: str
    home: Path
    stage: Stage
    time_zone: str = "UTC"
    locale: str = "C.UTF-8"
    umask: int = 0o022
    environment: Mapping[str, str] = field(default_factory=dict)

    def using(self, environment: Mapping[str, str]) -> Party:
        """The party with more variables: somebody's AWS credentials."""
        return replace(self, environment={**self.environment, **environment})

    def attempt(self, *argv: str | Path, quiet: bool = False, long: bool = False) -> CommandResult:
        """Run one of our commands with ``--json`` as this party and return how it ended.

        A ``long`` command's progress and errors go to the audience as they come.
        """
        words = [str(word) for word in argv]
        if not quiet:
            self.stage.command(self.name, [_short(word, self.home) for word in words])
        done = run_program(
            python_program("coattest.command:main", *words, "--json"),
            folder=self.home,
            environment=self._environment(),
            limits=ProgramLimits(seconds=COMMAND_SECONDS),
            leaves_service=True,
            show_errors=long,
            umask=self.umask,
        )
        output = done.stdout.decode()
        try:
            document = json.loads(output) if output.strip() else None
        except ValueError:
            document = output
        return CommandResult(done.code, document, done.said.strip())

    def run(self, *argv: str | Path, **options: Any) -> Any:
        """Like ``attempt``, but the command must succeed; returns its JSON document."""
        done = self.attempt(*argv, **options)
        if done.code != 0:
            raise step_failed(done, where=f"{self.name}: {argv[0]} {argv[1]}")
        return done.document

    def must_fail(self, what: str, *argv: str | Path, expected_code: str, exit_code: int = 1) -> None:
        """Run a command that must be refused with this exit code and name ``expected_code``."""
        done = self.attempt(*argv)
        if done.code == EnvironmentFailure.exit_code != exit_code:
            raise step_failed(done, where=f"{self.name}: {argv[0]} {argv[1]}")
        if done.code != exit_code:
            raise demo_failed(
                f"{what} was not refused (exit {done.code}): {done.errors[-600:]}", where=self.name
            )
        if expected_code not in json.dumps(done.document) + done.errors:
            raise demo_failed(f"{what} was refused with another code: {done.errors[-600:]}", where=self.name)
        self.stage.refused(what, _why(done, expected_code))

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": str(self.home),
            "COATTEST_CACHE": str(cache_folder().resolve()),
            "TZ": self.time_zone,
            "LC_ALL": self.locale,
            "NO_COLOR": "1",
            "COATTEST_CONFIG": str(self.home / "config"),
            "COATTEST_STATE": str(self.home / "state"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        return program_environment(INHERITED, {**own, **self.environment})


def demo_failed(what: str, *, where: str | None = None) -> FoundFalse:
    """The error for a step of the demo that failed."""
    return FoundFalse(what, where=where, code="demo-failed")


def step_failed(done: CommandResult, *, where: str) -> CoattestError:
    """The error for a command that failed, in its own words; what this machine lacks stays exit code 3."""
    told = done.document if isinstance(done.document, dict) else {}
    lines = done.errors.splitlines()
    what = str(told.get("error") or (lines[-1] if lines else f"exit {done.code}"))
    place = f"{where}: {told['where']}" if told.get("where") else where
    hint = str(told["hint"]) if told.get("hint") else None
    if done.code == EnvironmentFailure.exit_code:
        code = str(told.get("code") or EnvironmentFailure.default_code)
        return EnvironmentFailure(what, where=place, hint=hint, code=code)
    return FoundFalse(f"exit {done.code}: {what}", where=place, hint=hint, code="demo-failed")


def _short(word: str, home: Path) -> str:
    return word.replace(f"{home}/", "")


def _why(done: CommandResult, code: str) -> str:
    """The detail of the finding with ``code`` in the command's document, or else its last line of errors."""
    lists = done.document.values() if isinstance(done.document, dict) else ()
    for found in (
        item for each in lists if isinstance(each, list) for item in each if isinstance(item, dict)
    ):
        if str(found.get("code", "")).startswith(code):
            return f"{code}: {found['detail']}"
    return done.errors.splitlines()[-1] if done.errors else code
