"""What the base install weighs and does, and which extra each other command asks for (tox -e base-install).

Run by an interpreter that has coattest without extras, and no pytest. Prints the figures; exits 1 with a line
for each thing that is not as it must be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from click.testing import CliRunner

from coattest.command import cli
from support.command_tree import verbs
from support.verify.base_world import make_world
from support.verify.nitro_ca import NOW, PCRS, document, usual_chain
from support.yes import the_yes_to

MOST_DISTRIBUTIONS = 16
MOST_MEGABYTES = 40
"""Of 2^20 bytes, with every file rounded up to 1 KiB: Installed-Size of Debian's Policy, section 5.6.20. The
blocks of a file system (4 KiB with ext4) are printed beside it."""

TOOLS = {"pip", "setuptools", "wheel"}
"""Part of the environment, not of the install."""

REPOSITORY = Path(__file__).resolve().parents[1]
VECTORS = REPOSITORY.parent / "shared" / "vectors"
BIN = Path(sys.executable).parent

FILLED = "--manifest manifest.cbor --buyer buyer-1 --record file"
MINE = "--member buyer-2 --key quorum/keys/buyer-2"
OWN = "--this-checkout-is-mine"
TO_PLAN = "--target local --image manifest.cbor --state state --role-arn a --instance-id i {deciding}"
A_KEY = "--key arn:aws:kms:eu-central-1:1:key/2 --parent-role arn:aws:iam::1:role/p"

NEEDS = {
    "nitro-local up": "local",
    "nitro-local demo": "local",
    "nitro-local demo --source {repository}": "local",
    "deploy-from-attestation plan": "aws",
    f"deploy-from-attestation plan {TO_PLAN}": "aws",
    f"deploy-from-attestation apply {TO_PLAN}": "aws",
    "deploy-from-attestation status --state state {deciding}": "aws",
    "deploy-from-attestation destroy --state state": "aws",
    "coattest deploy-from-attestation plan": "aws",
    "eif build": "build",
    "eif build --source {repository} --out x": "build",
    "verify rebuild": "build",
    "verify rebuild --source {repository} --out x": "build",
    "verify inputs --source {repository}": "build",
    f"verify release review {OWN} {MINE} --release {{release}} --attestations {{attestations}}": "build",
    "verify policy prove": "prove",
    "verify policy prove file": "prove",
    "verify policy apply": "aws",
    "verify policy check": "aws",
    f"verify audit lookup-events {A_KEY}": "aws",
    f"verify audit s3://bucket/prefix {A_KEY}": "aws",
    "verify sign-pcrs --key awskms:alias/me": "aws",
    "verify sign-pcrs --member buyer-1 --key awskms:alias/me --attestations {attestations}": "aws",
    "verify sign-pcrs --member buyer-1 --key hsm:2?label=me --attestations {attestations}": "pkcs11",
    f"auction bid {FILLED} --auction-key buyer-1.key --bids file --out x --upload {{deciding}}": "aws",
    f"auction seal {FILLED} --auction-key buyer-1.key --own-bid file --out x {{deciding}}": "aws",
    "auction open": "aws",
    "auction serve": "aws",
}
"""Commands, and the extra that each asks for in the base install."""

RUNS = (
    "eif init python start",
    "verify keygen --out key",
    "verify members show {quorum}",
    "verify quorum {deciding}",
    "verify release bundle --out bundle.json {deciding}",
    "verify release links --out links {deciding}",
    "verify receipt result.cbor --manifest manifest.cbor {deciding}",
    "verify policy make --member buyer-1 {managing} {deciding}",
    "verify policy explain --member buyer-1 {managing} {deciding}",
    f"verify sign-pcrs {MINE} --could-not-build --reason slow --attestations {{attestations}}",
    f"verify release revoke {MINE} --reason no {{quorum}}",
    "auction keygen --out auction.key",
    "auction show --manifest manifest.cbor",
)
"""Commands that do their work in the base install, in this order, with exit code 0 and one JSON document."""


def distributions() -> list[str]:
    """Every installed distribution but the environment's own tools."""
    names = {each.metadata["Name"].lower() for each in metadata.distributions()}
    return sorted(names - TOOLS)


def mebibytes(folder: Path, block: int) -> float:
    """What the files of an environment's library take in blocks of so many bytes, without its own tools."""
    total = 0
    for path in folder.rglob("*"):
        top = path.relative_to(folder).parts[0].partition("-")[0]
        if path.is_file() and top not in {*TOOLS, "pkg_resources", "_distutils_hack"}:
            total += -(-path.stat().st_size // block) * block
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


def real_document_problems(folder: Path) -> list[str]:
    """``verify attestation`` accepts every document of real hardware that there is, and no forged one."""
    problems = []
    for name, code in (("attestation", 0), ("attestation-negative", 1)):
        if not (VECTORS / name).is_dir():
            print(f"verify attestation on real documents: skipped, no ../shared/vectors/{name}")
            continue
        done = call(folder, "verify", "attestation", str(VECTORS / name), "--json")
        if done.returncode != code:
            problems.append(f"verify attestation {name}: exit {done.returncode}, not {code}: {done.stderr}")
        print(f"verify attestation on {name}: {len(list((VECTORS / name).glob('*.bin')))} real documents")
    return problems


def help_problems(folder: Path) -> list[str]:
    """Every command shows its help, whichever extra it needs."""
    paths = verbs(cli, ("coattest",))
    problems = []
    for path in paths:
        done = CliRunner().invoke(cli, [*path[1:], "-h"], prog_name="coattest")
        if done.exit_code != 0 or "-h, --help" not in done.output:
            problems.append(f"{' '.join(path)} -h: {done.output[-500:]}{done.exception}")
    for words in ("nitro-local up", "deploy-from-attestation plan", "eif build", "verify policy prove"):
        done = call(folder, *words.split(), "-h")
        if done.returncode != 0 or done.stderr or f"Usage: {words}" not in done.stdout:
            problems.append(f"{words} -h: exit {done.returncode}: {done.stderr}")
    print(f"-h of {len(paths)} commands: {'shown' if not problems else 'NOT shown'}")
    return problems


def extra_problems(folder: Path, places: Mapping[str, str]) -> list[str]:
    """Each command of NEEDS says in one line which extra it needs, and in one document with --json."""
    problems = []
    for text, extra in NEEDS.items():
        words = text.format(**places).split()
        done = call(folder, *words, "--json")
        asked = f"this needs the extra '{extra}'" in done.stderr and f"with [{extra}] after" in done.stderr
        print(f"{text}: {done.stderr.strip()}")
        try:
            code = json.loads(done.stdout)["code"]
        except ValueError:
            code = None
        if not (done.returncode == 3 and asked and done.stderr.count("\n") == 1 and code == "missing-extra"):
            problems.append(f"{text}: exit {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    return problems


def work_problems(folder: Path, places: Mapping[str, str]) -> list[str]:
    """Each command of RUNS does its work."""
    problems = []
    for text in RUNS:
        words = (*text.format(**places).split(), "--json")
        done = call(folder, *words)
        if yes := the_yes_to(done.stderr):
            done = call(folder, *words, *yes)
        try:
            json.loads(done.stdout)
        except ValueError:
            done.returncode = done.returncode or -1
        print(f"{text}: {'runs' if done.returncode == 0 else 'DOES NOT RUN'}")
        if done.returncode != 0:
            problems.append(f"{text}: exit {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    return problems


def mirror_problems(folder: Path) -> list[str]:
    """``eif lock`` gets as far as asking the mirror; so does ``eif stage`` where there is no repository."""
    source = folder / "source"
    for name in ("build", "enclave"):
        shutil.copytree(REPOSITORY / name, source / name)
    problems = []
    for words in ("eif lock --check --source source", "eif stage prepare --source source --stage stage"):
        done = call(folder, *words.split(), "--mirror", (folder / "absent").as_uri(), "--json")
        print(f"{words}: {done.stderr.strip()}")
        reached = "absent" in done.stderr and json.loads(done.stdout)["code"] != "missing-extra"
        if done.returncode != 3 or not reached:
            problems.append(f"{words}: exit {done.returncode}: {done.stderr[-2000:]}")
    return problems


def main() -> int:
    """Print what there is; 1 when something is not as it must be."""
    names, library = distributions(), Path(sysconfig.get_path("purelib"))
    size = mebibytes(library, 1024)
    print(f"base install: {len(names)} distributions: {', '.join(names)}")
    blocks, plain = mebibytes(library, 4096), mebibytes(library, 1)
    print(f"base install: {size:.1f} MB of 2^20 bytes; {plain:.1f} in bytes, {blocks:.1f} in blocks of 4 KiB")
    problems = []
    if len(names) > MOST_DISTRIBUTIONS:
        problems.append(f"{len(names)} distributions, {MOST_DISTRIBUTIONS} at most")
    if size > MOST_MEGABYTES:
        problems.append(f"{size:.1f} MB, {MOST_MEGABYTES} at most")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems += document_problems(folder)
        problems += real_document_problems(folder)
        problems += help_problems(folder)
        world = make_world(folder)
        (folder / "file").write_text("{}")
        places = {**world.places, "repository": str(REPOSITORY)}
        problems += extra_problems(folder, places)
        problems += work_problems(folder, places)
        problems += mirror_problems(folder)
    for problem in problems:
        print(f"base install: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
