"""What a quorum costs: 1,000 statements, 25 members with 40 releases, a log of 20,000 entries.

python bench/bench_quorum.py [--json] [--statements N] [--members N] [--rounds N] [--releases N] [--entries N]

Seconds are of this process's processor time, so that other programs show less; rounds of the decision and of
the bare checks alternate, and the best round of each counts. The bare checks verify the same signatures over
the same bytes with keys that are loaded already: no files, no JSON, no rules. Statements name as many inputs
as the shipped lock has.

The other figures are of programs as a person runs them: ``verify quorum`` on one of the releases, the size of
its proof bundle, and what the program needs beside a log of many entries. A program's seconds are its
processor time, user and system together, the best of the rounds; its memory is the largest resident set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coattest.files import Folder
from coattest_build.inputs import lock as locks
from coattest_verify.quorum.cosigning import append_log
from coattest_verify.quorum.links import layout_name, link_name, sign_layout, sign_link
from coattest_verify.quorum.log.checkpoint import cosign
from coattest_verify.quorum.log.entries import parse_entry
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, LOG, cosignature_file, head, read_quorum_log
from coattest_verify.quorum.log.merkle import log_files
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE, sign_statement
from coattest_verify.signatures.dsse import DsseEnvelope

if TYPE_CHECKING:
    from support.verify.members import Members

ROOT = Path(__file__).resolve().parent.parent
GOAL_RATIO = 4.0
"""A decision over 1,000 statements, in bare signature checks (issue 14)."""

PROGRAM_SECONDS, PROGRAM_LINES, BUNDLE_BYTES = 1.0, 50, 1024 * 1024
"""Of one release among 40: ``verify quorum``, what it prints, and its proof bundle."""

LOG_BYTES = 200 * 1024 * 1024
"""Memory of ``verify quorum`` and ``verify log append`` beside a log of 20,000 entries."""

MANY_MEMBERS = 25


def clocked(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def prepare(folder: Path, statements: int, members: int) -> tuple[Members, int]:
    """A quorum whose members signed so many agreeing statements; and how many inputs each names."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.verify.members import Members, report_json  # noqa: PLC0415

    names = [f"member-{index}" for index in range(members)]
    quorum = Members.make(folder, names, kinds=("ed25519",))
    lock, _ = locks.load_lock(ROOT)
    inputs = len(lock.packages) + len(lock.wheels)
    report = report_json(inputs=inputs)
    quorum.claim(report)
    for index in range(statements):
        name = names[index % members]
        age = timedelta(minutes=index)
        quorum.sign(name, report, name=f"rebuild.{name}.{index}.intoto.json", age=age)
    return quorum, inputs


def bare_checks(quorum: Members, statements: int) -> Callable[[], None]:
    """Verify every statement's signature, and nothing else."""
    checks = []
    for path in quorum.released.glob("rebuild.*.intoto.json"):
        party = quorum.file.member(path.name.split(".")[1])
        if party is None:
            raise SystemExit(f"{path.name}: not a member's")
        envelope = DsseEnvelope.decode(path.read_bytes(), PAYLOAD_TYPE)
        checks.append((party.keys[0], envelope.signatures[0][1], envelope.pae))
    if len(checks) != statements:
        raise SystemExit(f"{len(checks)} statements instead of {statements}")

    def run() -> None:
        for key, signature, message in checks:
            if not key.verifies(signature, message):
                raise SystemExit("a signature that does not verify")

    return run


def measure(statements: int, members: int, rounds: int) -> dict[str, Any]:
    """Best seconds of the decision and of the bare checks, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        quorum, inputs = prepare(Path(folder), statements, members)
        bare = bare_checks(quorum, statements)
        decide, raw = [], []
        for _ in range(rounds):
            decide.append(clocked(lambda: quorum.decide().require()))
            raw.append(clocked(bare))
    return {
        "statements": statements,
        "members": members,
        "inputs_each": inputs,
        "decide_seconds": min(decide),
        "bare_seconds": min(raw),
        "ratio": min(decide) / min(raw),
        "load": os.getloadavg()[0],
    }


@dataclass(frozen=True)
class Ran:
    """What one run of a program took: processor seconds, the largest resident set (bytes), lines printed."""

    seconds: float
    memory: int
    lines: int


def ran(*argv: str) -> Ran:
    """Run ``verify`` by itself, with a memory of its own. Raises SystemExit unless it ends with 0."""
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryFile() as printed:
        environment = {"PATH": os.environ["PATH"], "COATTEST_CONFIG": own, "COATTEST_STATE": own}
        program = str(Path(sys.executable).parent / "verify")
        with subprocess.Popen([program, *argv], env=environment, stdout=printed, stderr=printed) as running:
            _, status, used = os.wait4(running.pid, 0)
            running.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read()
        if running.returncode:
            raise SystemExit(f"verify {argv[0]}: {text.decode()}")
    return Ran(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, text.count(b"\n"))


def many_releases(folder: Path, releases: int) -> tuple[Members, int]:
    """25 members who all agreed on each of so many releases, logged and cosigned; and how many files."""
    quorum, _ = prepare(folder, 0, MANY_MEMBERS)
    from support.verify.members import NOW, report_json  # noqa: PLC0415

    lock, _ = locks.load_lock(ROOT)
    age = NOW - datetime.now(timezone.utc) + timedelta(hours=1)
    for number in range(releases):
        release = f"0.{number}.0"
        inputs = len(lock.packages) + len(lock.wheels)
        report = report_json(release, release=release, source=release, inputs=inputs)
        quorum.claim(report)
        for name in quorum.file.names:
            signer, statement = quorum.signers[name], quorum.statement(name, report, age=age)
            quorum.write(f"rebuild.{name}.intoto.json", sign_statement(statement, signer))
            quorum.write(link_name(signer.public), sign_link(statement, signer))
    for name in quorum.file.names:
        layout = sign_layout(quorum.file, name, quorum.signers[name])
        quorum.write(layout_name(quorum.file, name), layout or b"")
    append_log(quorum.attestations, quorum.root, seen=None)
    cosign_all(quorum)
    return quorum, sum(path.is_file() for path in quorum.attestations.rglob("*"))


def cosign_all(quorum: Members) -> None:
    """Every member's note on the whole log, without its checks of every entry."""
    with Folder(quorum.attestations) as opened:
        log = read_quorum_log(opened, quorum.root, quorum.file)
    if log is None:
        raise SystemExit("no log")
    for name in quorum.file.names:
        note = cosign(log.checkpoint, name, quorum.signers[name], datetime.now(timezone.utc))
        quorum.write(cosignature_file(name), note.encode())


def measure_releases(releases: int, rounds: int) -> dict[str, Any]:
    """``verify quorum`` on one of so many releases of 25 members, and the bundle of that one."""
    with tempfile.TemporaryDirectory() as folder:
        quorum, files = many_releases(Path(folder), releases)
        argv = (*quorum.deciding(quorum.released.name)[:4], "--release", quorum.released.name)
        runs = [ran("quorum", *argv) for _ in range(rounds)]
        bundle = Path(folder) / "proof.json"
        ran("release", "bundle", "--out", str(bundle), *argv)
        return {
            "members": MANY_MEMBERS,
            "releases": releases,
            "files": files,
            "program_seconds": min(each.seconds for each in runs),
            "program_lines": max(each.lines for each in runs),
            "program_bytes": max(each.memory for each in runs),
            "bundle_bytes": bundle.stat().st_size,
        }


def measure_log(entries: int) -> dict[str, Any]:
    """The memory of ``verify quorum`` and of ``verify log append`` beside a log of so many entries."""
    with tempfile.TemporaryDirectory() as folder:
        quorum, _ = many_releases(Path(folder), 1)
        with Folder(quorum.attestations) as opened:
            log = read_quorum_log(opened, quorum.root, quorum.file)
        if log is None:
            raise SystemExit("no log")
        # Statements of other releases: as long as theirs, and a decision does not look at their files.
        like = next(entry for entry in log.entries if b'"rebuild"' in entry)
        sha256 = parse_entry(like).sha256.encode()
        more = (
            like.replace(sha256, hashlib.sha256(bytes(str(number), "ascii")).hexdigest().encode()).replace(
                b'"release":"0.0.0"', b'"release":"1.%d.0"' % (number // MANY_MEMBERS)
            )
            for number in range(entries - len(log.entries))
        )
        every = [*log.entries, *more]
        for path, content in log_files(every).items():
            quorum.write(LOG + path, content)
        quorum.write(CHECKPOINT_FILE, head(every, quorum.root).encode())
        cosign_all(quorum)
        where = quorum.deciding()[:4]
        decided, appended = ran("quorum", *where, "--release", "0.0.0"), ran("log", "append", *where)
        return {
            "entries": len(every),
            "log_bytes": decided.memory,
            "log_seconds": decided.seconds,
            "append_bytes": appended.memory,
            "append_seconds": appended.seconds,
        }


def shown(result: dict[str, Any]) -> None:
    """The figures beside their goals."""
    mebi = 1024 * 1024
    rows = (
        ("decided", f"{result['decide_seconds']:.2f} s", f"{result['bare_seconds']:.2f} s of bare checks"),
        ("ratio", f"{result['ratio']:.1f}", f"{GOAL_RATIO:.0f}"),
        ("verify quorum", f"{result['program_seconds']:.2f} s", f"{PROGRAM_SECONDS:.0f} s"),
        ("printed", f"{result['program_lines']} lines", f"{PROGRAM_LINES} lines"),
        ("bundle", f"{result['bundle_bytes'] / mebi:.2f} MiB", f"{BUNDLE_BYTES / mebi:.0f} MiB"),
        ("decision, large log", f"{result['log_bytes'] / mebi:.0f} MiB", f"{LOG_BYTES / mebi:.0f} MiB"),
        ("append, large log", f"{result['append_bytes'] / mebi:.0f} MiB", f"{LOG_BYTES / mebi:.0f} MiB"),
    )
    print(
        f"{result['statements']} statements of {result['members']} members, {result['inputs_each']} inputs"
        f" each; {MANY_MEMBERS} members and {result['releases']} releases, {result['files']} files;"
        f" {result['entries']} log entries; load {result['load']:.1f}"
    )
    for name, found, goal in rows:
        print(f"  {name:20} {found:>12}    goal {goal}")


def main() -> None:
    """Print the figures, or with --json one document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--statements", type=int, default=1000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--releases", type=int, default=40)
    parser.add_argument("--entries", type=int, default=20_000)
    options = parser.parse_args()
    result = {
        **measure_releases(options.releases, options.rounds),
        **measure_log(options.entries),
        **measure(options.statements, options.members, options.rounds),
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    shown(result)


if __name__ == "__main__":
    main()
