"""What the base install weighs and does, and which extra each other command asks for (tox -e base-install).

Run by an interpreter that has coattest without extras, and no pytest. Prints the figures; exits 1 with a line
for each thing that is not as it must be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from support.verify.nitro_ca import NOW, PCRS, document, usual_chain

MOST_DISTRIBUTIONS = 16
MOST_MEGABYTES = 40
TOOLS = {"pip", "setuptools", "wheel"}
"""Part of the environment, not of the install."""

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

NEEDS = {
    "nitro-local up": "local",
    "nitro-local demo": "local",
    "deploy-from-attestation plan --image x --out x": "aws",
    "eif build --out x": "build",
    "verify rebuild": "build",
    "verify inputs --source {repository}": "build",
    "verify policy prove {file}": "prove",
    "auction bid --manifest {file} --buyer a --bids {file} --out x --upload": "aws",
    "verify keygen --help": None,
    "verify quorum --help": None,
    "verify members --help": None,
    "verify release links --help": None,
    "verify log show --help": None,
    "verify policy make --help": None,
    "verify receipt --help": None,
    "verify sign-pcrs --help": None,
    "auction keygen --help": None,
    "eif measure --help": None,
    "coattest --help": None,
}
"""Commands, and the extra that each asks for in the base install; None: it runs."""


def distributions() -> list[str]:
    """Every installed distribution but the environment's own tools."""
    names = {each.metadata["Name"].lower() for each in metadata.distributions()}
    return sorted(names - TOOLS)


def megabytes(folder: Path) -> float:
    """What the files of an environment's library take, without its own tools: 4,096 bytes is a block."""
    total = 0
    for path in folder.rglob("*"):
        top = path.relative_to(folder).parts[0].partition("-")[0]
        if path.is_file() and top not in {*TOOLS, "pkg_resources", "_distutils_hack"}:
            total += -(-path.stat().st_size // 4096) * 4096
    return total / 2**20


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in a folder of its own."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [BIN / words[0], *words[1:]],
        capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=60,
    )  # fmt: skip


def document_problems(folder: Path) -> list[str]:
    """``verify attestation`` accepts a document that is as expected, and refuses another."""
    (folder / "doc").write_bytes(document())
    registers = {f"PCR{index}": PCRS[index].hex() for index in (0, 1, 2)}
    problems = []
    for first, code in ((PCRS[0].hex(), 0), ("ee" * 48, 1)):
        measurements = {"HashAlgorithm": "Sha384 { ... }", **registers, "PCR0": first}
        (folder / "expected").write_text(json.dumps({"Measurements": measurements}))
        root = f"sha256:{usual_chain().root.sha256.hex()}"
        words = ("doc", "--expect", "expected", "--root", root, "--at", NOW.isoformat(), "--json")
        done = call(folder, "verify", "attestation", *words)
        if done.returncode != code:
            problems.append(f"verify attestation: exit {done.returncode}, not {code}: {done.stderr}")
    return problems


def command_problems(folder: Path) -> list[str]:
    """Each command of NEEDS runs, or says in one line which extra it needs."""
    (folder / "file").write_text("{}")
    problems = []
    for text, extra in NEEDS.items():
        words = text.format(repository=REPOSITORY, file="file").split()
        done = call(folder, *words)
        print(f"{text}: {done.stderr.strip() or 'runs'}")
        if extra is None:
            good = done.returncode == 0
        else:
            asked = f"this needs the extra '{extra}'" in done.stderr and f"'.[{extra}]'" in done.stderr
            good = done.returncode == 3 and asked and done.stderr.count("\n") == 1
        if not good:
            problems.append(f"{text}: exit {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    done = call(folder, "eif", "build", "--out", "x", "--json")
    if json.loads(done.stdout)["code"] != "missing-extra":
        problems.append(f"eif build --json: {done.stdout}")
    return problems


def main() -> int:
    """Print what there is; 1 when something is not as it must be."""
    names, size = distributions(), megabytes(Path(sysconfig.get_path("purelib")))
    print(f"base install: {len(names)} distributions, {size:.1f} MB: {', '.join(names)}")
    problems = []
    if len(names) > MOST_DISTRIBUTIONS:
        problems.append(f"{len(names)} distributions, {MOST_DISTRIBUTIONS} at most")
    if size > MOST_MEGABYTES:
        problems.append(f"{size:.1f} MB, {MOST_MEGABYTES} at most")
    with tempfile.TemporaryDirectory() as name:
        problems += document_problems(Path(name))
        problems += command_problems(Path(name))
    for problem in problems:
        print(f"base install: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
