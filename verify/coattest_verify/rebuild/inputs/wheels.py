"""Wheels against the package index: fetched again through pip, past every cache, and hashed here.

Package indexes sign nothing that a client could check, so this says what the index of the member's choice
(pip's own configuration) serves today, not who made it.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.findings import Finding
from coattest.programs.start import ProgramLimits
from coattest_build.inputs.cache import sha256_file
from coattest_build.inputs.lock import LockedWheel
from coattest_build.inputs.package_index import MEMORY, WantedWheel, download_wheels

TIMEOUT_SECONDS = 300
MAX_SAID = 64 * 1024
"""Characters of pip's words that are looked at; the list of all 2,000 versions of boto3 has 18,000."""


def check_wheel(pin: LockedWheel) -> tuple[Finding, ...]:
    """What is wrong with a pinned wheel, by the index that pip is configured with; empty when nothing is."""
    with tempfile.TemporaryDirectory(prefix="coattest-inputs-") as name:
        arrived = Path(name) / "arrived"
        arrived.mkdir()
        wanted = WantedWheel(pin.name, pin.version, (pin.sha256,))
        limits = ProgramLimits(seconds=TIMEOUT_SECONDS, memory=MEMORY)
        try:
            ended = download_wheels([wanted], arrived, Path(name), limits=limits)
        except EnvironmentFailure as error:
            if error.code != "program-time":
                raise
            return (Finding("index-unreachable", pin.name, f"pip took more than {TIMEOUT_SECONDS} s"),)
        if ended.code:
            return (pip_finding(pin, ended.stdout.decode("utf-8", "replace") + ended.said),)
        files = sorted(arrived.iterdir())
        if len(files) != 1:
            return (Finding("index-unreachable", pin.name, "pip downloaded nothing"),)
        return _differences(pin, files[0])


def pip_finding(pin: LockedWheel, said: str) -> Finding:
    """What pip's refusal means. Only what it plainly says is a contradiction; the rest was not answered."""
    said = said[-MAX_SAID:]
    if "DO NOT MATCH THE HASHES" in said:
        got = re.search(r"Got\s+([0-9a-f]{64})", said)
        return Finding("wrong-hash", pin.name, f"pinned {pin.sha256}, served {got[1] if got else 'another'}")
    versions = re.search(r"\(from versions: ([^)]*)\)", said)
    if versions and versions[1] not in ("", "none"):
        return Finding(
            "wrong-version", pin.name, f"pinned {pin.version}, the package index has {versions[1][-200:]}"
        )
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or [said.strip()[-200:]]
    return Finding("index-unreachable", pin.name, lines[0][:300] or "pip gave no reason")


def _differences(pin: LockedWheel, path: Path) -> tuple[Finding, ...]:
    found: list[Finding] = []
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != pin.sha256:
        found.append(Finding("wrong-hash", pin.name, f"pinned {pin.sha256}, served {digest}"))
    if (path.name, size) != (pin.file, pin.size):
        found.append(
            Finding(
                "wrong-file",
                pin.name,
                f"pinned {pin.file} ({pin.size} bytes), served {path.name} ({size} bytes)",
            )
        )
    return tuple(found)
