"""A member's desk: a folder in which the commands run as programs, on real images."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest_build.formats.eif import write_image
from coattest_build.formats.measure import measure
from coattest_build.ownwork import BUILT, OwnWork, sha256_hex
from support.forked import PROGRAMS, own
from support.verify.members import report_json
from support.yes import the_yes_to

BIN = Path(sys.executable).parent


@dataclass
class Desk:
    """A folder in which programs run, with its own remembered roots and state; what is shown is confirmed,
    unless it is ``silent``.
    """

    folder: Path
    silent: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What its programs see."""
        return {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "COATTEST_CONFIG": str(self.folder / "config"),
            "COATTEST_STATE": str(self.folder / "state"),
        }

    def run(self, *argv: str, program: str = "verify") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*(own(program) if program in PROGRAMS else [str(BIN / program)]), *argv],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        yes = () if self.silent else the_yes_to(done.stderr)
        return self.run(*argv, *yes, program=program) if yes else done

    def ok(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *argv: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok(*argv, "--json"))
        return found

    def images(self, out: str, seed: bytes = b"good", *, own: bool = True) -> dict[str, Any]:
        """Two small real images and the report of a build that made them, by this desk's ``own`` tool."""
        folder = self.folder / out
        folder.mkdir(exist_ok=True)
        for name in ("kernel", "boot", "app"):
            (self.folder / name).write_bytes(name.encode() * 100)
        report = report_json()
        for profile, file in (("aws", "image.eif"), ("local", "image.local.eif")):
            (self.folder / "app").write_bytes(seed + profile.encode() * 100)
            write_image(
                folder / file,
                kernel=self.folder / "kernel",
                cmdline=b"console=ttyS0",
                metadata=b"{}",
                ramdisks=[self.folder / "boot", self.folder / "app"],
            )
            found = measure(folder / file)
            report["profiles"][profile] = {
                "image": {
                    "name": file,
                    "size": found.size,
                    "sha256": found.sha256,
                    "sha384": found.sha384,
                },
                "pcrs": {"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2},
                "sections": [
                    {"type": item.type, "size": item.size, "sha384": item.sha384} for item in found.sections
                ],
            }
        (folder / "rebuild.json").write_text(json.dumps(report))
        if own:
            self.own_work.note(BUILT, sha256_hex((folder / "rebuild.json").read_bytes()))
        return report

    @property
    def own_work(self) -> OwnWork:
        """The record of what its programs made."""
        return OwnWork(self.folder / "state" / "own-work")

    def answer(
        self, answer: str, *argv: str, meanwhile: Callable[[], object] = lambda: None
    ) -> tuple[int, str]:
        """Run ``verify`` on a terminal; while it asks, do something, then type the answer.

        Returns the exit code and everything that the terminal showed.
        """
        person, terminal = pty.openpty()
        with subprocess.Popen(
            [str(BIN / "verify"), *argv],
            cwd=self.folder,
            env=self.environment,
            stdin=terminal,
            stderr=terminal,
            stdout=subprocess.DEVNULL,
        ) as running:
            os.close(terminal)
            shown = _read_until(person, b"sign this?")
            if shown.endswith(b"sign this?"):
                meanwhile()
                os.write(person, f"{answer}\n".encode())
                shown += _read_until(person, None)
        os.close(person)
        return running.returncode, shown.decode()


def _read_until(person: int, wanted: bytes | None) -> bytes:
    """What a terminal shows up to ``wanted``, or to its end."""
    shown = b""
    while wanted is None or wanted not in shown:
        try:
            more = os.read(person, 1 if wanted else 65536)
        except OSError:  # EIO: the program has ended
            break
        if not more:
            break
        shown += more
    return shown
