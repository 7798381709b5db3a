"""Wheels against the package index: fetched again through pip, past every cache, and hashed here.

Package indexes sign nothing that a client could check, so this says what the index of the member's choice
(pip's own configuration) serves today, not who made it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from coattest.findings import Finding
from coattest_build.inputs.cache import sha256_file
from coattest_build.inputs.lock import LockedWheel
from coattest_build.inputs.wheels import TARGET

TIMEOUT_SECONDS = 300


def check_wheel(pin: LockedWheel) -> tuple[Finding, ...]:
    """What is wrong with a pinned wheel, by the index that pip is configured with; empty when nothing is."""
    with tempfile.TemporaryDirectory(prefix="coattest-inputs-") as name:
        folder = Path(name)
        listing = folder / "requirements.txt"
        listing.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
        arrived = folder / "arrived"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *TARGET]
        command += ["--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        command += ["--dest", str(arrived), "--requirement", str(listing)]
        try:
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return (Finding("index-unreachable", pin.name, f"pip took more than {TIMEOUT_SECONDS} s"),)
        if result.returncode:
            return (pip_finding(pin, result.stdout + result.stderr),)
        files = sorted(arrived.iterdir())
        if len(files) != 1:
            return (Finding("index-unreachable", pin.name, "pip downloaded nothing"),)
        return _differences(pin, files[0])


def pip_finding(pin: LockedWheel, said: str) -> Finding:
    """What pip's refusal means. Only what it plainly says is a contradiction; the rest was not answered."""
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
