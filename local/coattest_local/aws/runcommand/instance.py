"""A pretended parent instance with the few programs that a deployment calls there.

A script is lines of words; no shell runs. A line with another program is refused, and so is a path outside
the directories that belong to coattest on an instance; those are in the pretended instance's own folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.programs.environment import (
    OWN_VARIABLES,
    find_program,
    program_environment,
    python_program,
)
from coattest.programs.start import ProgramLimits, run_program
from coattest_local.aws.runcommand import nitro_cli

FIRST = "set -eu"
FOLDERS = ("/var/lib/coattest/", "/etc/coattest/")
LOCAL_PROGRAMS = frozenset({"cp", "install", "printf", "sha384sum"})
"""Programs of this machine that are run as they are."""

DEPLOY = "/opt/coattest/bin/deploy-from-attestation"
SECONDS = 300.0


class LineRefused(Exception):
    """A line of a script that the pretended instance does not run."""


@dataclass(frozen=True, slots=True)
class ScriptOutcome:
    """How a script ended: the exit code of its last line, and what all lines printed."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class PretendedInstance:
    """An instance's folder and identity; ``fetch`` reads an object of S3 with the rights of its role."""

    folder: Path
    id: str
    role_arn: str
    fetch: Callable[[str, str], bytes]

    def run(self, lines: Sequence[str]) -> ScriptOutcome:
        """Run a script until a line fails."""
        for name in ("var/lib/coattest/releases", "etc/coattest", "enclaves"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        stdout = stderr = ""
        try:
            if list(lines[:1]) != [FIRST]:
                raise LineRefused(f"a script begins with {FIRST}")
            for line in lines[1:]:
                code, said, complained = self._line(shlex.split(line))
                stdout, stderr = stdout + said, stderr + complained
                if code:
                    return ScriptOutcome(code, stdout, stderr)
        except (LineRefused, ValueError, OSError, EnvironmentFailure) as error:
            return ScriptOutcome(127, stdout, f"{stderr}{error}\n")
        return ScriptOutcome(0, stdout, stderr)

    def _line(self, words: list[str]) -> tuple[int, str, str]:
        target = self._path(words[-1]) if len(words) > 2 and words[-2] == ">" else None
        name, *arguments = words[:-2] if target else words
        code, said, complained = self._program(name, arguments)
        if target:
            target.write_text(said)
            said = ""
        return code, said, complained

    def _program(self, name: str, arguments: list[str]) -> tuple[int, str, str]:
        if name in LOCAL_PROGRAMS:
            return _call([find_program(name), *(self._word(word) for word in arguments)])
        if name == "nitro-cli":
            return self._nitro_cli(arguments)
        if name == DEPLOY and arguments[:1] == ["live"]:
            words = (self._reachable(word) for word in arguments)
            return _call(python_program("coattest_parent.cli.deploy:main", *words))
        if name == "aws" and arguments[:2] == ["s3api", "get-object"]:
            options = dict(zip(arguments[2:-1:2], arguments[3:-1:2], strict=True))
            self._path(arguments[-1]).write_bytes(self.fetch(options["--bucket"], options["--key"]))
            return 0, "", ""
        if name == "cloud-init" and arguments == ["status", "--wait"]:
            return 0, "status: done\n", ""
        if name == "systemctl":
            with (self.folder / "systemctl.log").open("a") as log:
                log.write(shlex.join(arguments) + "\n")
            return 0, "", ""
        raise LineRefused(f"{name}: not on the pretended instance")

    def _nitro_cli(self, arguments: list[str]) -> tuple[int, str, str]:
        environment = {
            nitro_cli.ENCLAVES: str(self.folder / "enclaves"),
            nitro_cli.ROLE: self.role_arn,
            nitro_cli.INSTANCE: self.id,
        }
        words = [self._word(word) for word in arguments]
        return _call(python_program("coattest_local.aws.runcommand.nitro_cli", *words), environment)

    def _reachable(self, word: str) -> str:
        """The address of this machine for an enclave's vsock address, which only an instance has."""
        found = re.fullmatch(r"vsock:([0-9]{1,10}):5005", word)
        if not found:
            return self._word(word)
        address = nitro_cli.address_of(self.folder / "enclaves", int(found[1]))
        if address is None:
            raise LineRefused(f"{word}: no such enclave")
        return address

    def _word(self, word: str) -> str:
        return str(self._path(word)) if word.startswith("/") else word

    def _path(self, word: str) -> Path:
        if not word.startswith(FOLDERS) or ".." in word.split("/"):
            raise LineRefused(f"{word[:200]}: not a path of coattest")
        return self.folder / word.lstrip("/")


def _call(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = run_program(
        command,
        environment=program_environment(OWN_VARIABLES, environment),
        limits=ProgramLimits(seconds=SECONDS),
        leaves_service=True,
    )
    return done.code, done.stdout.decode(), done.said
