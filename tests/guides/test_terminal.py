"""What a person reads: every identifier whole on one line, on a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from base_install import MINE, RUNS
from coattest.findings import Finding
from coattest_parent.auction.steps import look_before_bid
from coattest_parent.cli.auction import bid, looking, seal
from coattest_parent.cli.deploy import command as deploy
from coattest_parent.cli.deploy import stack
from coattest_parent.deployment.live import Live
from coattest_parent.deployment.runner import Enclave
from coattest_parent.deployment.stack.parents import Parent
from coattest_parent.deployment.stack.rollout import Applied
from coattest_parent.link.channels import parse_address
from coattest_verify.auction import messages
from coattest_verify.auction.bids import read_bids
from coattest_verify.auction.journal import SealJournal
from coattest_verify.auction.sealing import plan_seal
from coattest_verify.cli import audit, inputs
from coattest_verify.cli.release import review
from coattest_verify.rebuild.inputs.check import LockVerdict, Pin, Suite
from coattest_verify.rebuild.inputs.release import Release
from support.auction import auctions
from support.auction.amounts import amounts_in
from support.build.container_images import entry, folder, saved, tar
from support.build.found_images import nitro
from support.forked import own
from support.local.local_enclave import PCRS as DECIDED
from support.verify.base_world import make_world
from support.verify.decisions import decision, make
from support.verify.nitro_ca import NOW, PCRS, document, usual_chain
from support.verify.trail_records import audited, collected, record
from support.yes import the_yes_to

COLUMNS = 80
EARLY = NOW - timedelta(seconds=5)

FIRST = (
    f"verify attestation document --expect expected --root {{ca}} --at {NOW.isoformat()}",
    "verify release which measured --profile local {quorum}",
    "verify report --member buyer-2 --key quorum/keys/buyer-2 --kms-key {kms} --bids s3://bids/ "
    "--policy policy.json --parent-role arn:aws:iam::111122223333:role/parent --out report.json {deciding}",
    "eif describe image.eif --files",
    "eif diff image.eif image.eif",
    "eif container inspect image.tar",
    "eif container ramdisk image.tar --style nitro-cli --out ramdisk",
)
UNDONE = "verify quorum {deciding} --profile local"
LAST = (
    "verify log append {quorum}",
    f"verify log cosign {MINE} {{quorum}}",
    "verify log show {quorum}",
    UNDONE,
)

MAKES = ("keygen", "revoke", *LAST)
"""Commands whose identifiers are new in each run."""

SHOWN_ELSEWHERE = {
    "verify policy": {"policy", "canonical", "decisions"},  # verify policy make, verify quorum
    "verify release which": {"decision"},  # verify quorum; its digest is compared
    "verify log show": {
        "quorum",
        "lock_sha256",
        "tree_sha256",
        "image.aws",
        "image.local",
    },  # the files of the entries
}
"""Members of JSON documents that another command prints."""

IDENTIFIER = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{96}|[0-9a-f]{64})(?![0-9a-f])|arn:aws[\w:/+=,.@-]+")
CUT_OR_PYTHON = re.compile(r"\u2026|\bNone\b|\{'|\['|\bb'|datetime\.")
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Run:
    """The commands in a folder of their own, one after the other."""

    def __init__(self, place: Path, places: dict[str, str]) -> None:
        self.place, self.places = place, places
        self.environment = {**os.environ, "HOME": str(place), "TERM": "xterm"}
        self.environment |= {name: str(place / name) for name in ("COATTEST_STATE", "COATTEST_CONFIG")}
        for name in ("COLUMNS", "PYTHONPATH", "FORCE_COLOR", "NO_COLOR"):
            self.environment.pop(name, None)

    def pipe(self, text: str, *more: str) -> tuple[str, str]:
        """Stdout and both streams of a command that says yes to what it is asked to sign."""
        words = [*text.format(**self.places).split(), *more]
        done = self.run(words)
        if yes := the_yes_to(done.stderr):
            done = self.run([*words, *yes])
        assert done.returncode == (1 if text == UNDONE else 0), done.stderr
        return done.stdout, done.stdout + done.stderr

    def terminal(self, text: str) -> str:
        """What a terminal of 80 columns gets, where somebody says yes to what is asked."""
        words = text.format(**self.places).split()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        with subprocess.Popen(
            [*own(words[0]), *words[1:]],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=self.place, env=self.environment,
        ):  # fmt: skip
            os.close(theirs)
            os.write(ours, b"y\n")
            shown = b""
            try:
                while block := os.read(ours, 65536):
                    shown += block
            except OSError:  # EIO: nobody writes any more
                pass
        os.close(ours)
        return STYLE.sub("", shown.decode()).replace("\r\n", "\n")

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """A command in a pipe."""
        return subprocess.run(
            [*own(words[0]), *words[1:]],
            capture_output=True, text=True, check=False, cwd=self.place, env=self.environment, timeout=120,
        )  # fmt: skip


def identifiers(value: Any, but: set[str]) -> set[str]:
    """Every digest and ARN of a JSON document, but for those below some members."""
    if isinstance(value, dict):
        return set().union(*(identifiers(below, but) for name, below in value.items() if name not in but))
    if isinstance(value, list):
        return set().union(*(identifiers(below, but) for below in value))
    found = IDENTIFIER.findall(value) if isinstance(value, str) else []
    return {each for each in found if each.strip("0")}  # registers of zeros are told by name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same world four times."""
    base = tmp_path_factory.mktemp("world")
    world = make_world(base)
    (base / "file").write_text("{}")
    (base / "document").write_bytes(document())
    (base / "expected").write_text(json.dumps({f"PCR{index}": PCRS[index].hex() for index in (0, 1, 2)}))
    (base / "measured").write_text(
        json.dumps({f"PCR{index}": value.hex() for index, value in DECIDED.items()})
    )
    decided = decision(pcrs={index: DECIDED[index].hex() for index in range(3)})
    (base / "policy.json").write_text(json.dumps(make(decided)))
    (base / "image.eif").write_bytes(nitro().build())
    (base / "image.tar").write_bytes(saved([tar(folder("d"), entry("d/x", b"1"))]))
    places = {
        **world.places,
        "ca": f"sha256:{usual_chain().root.sha256.hex()}",
        "kms": "arn:aws:kms:eu-central-1:222233334444:key/00000000-0000-4000-8000-222233334444",
    }
    made = {}
    for name in ("json", "pipe", "terminal", "early"):
        place = tmp_path_factory.mktemp(name)
        shutil.copytree(base, place, dirs_exist_ok=True)
        there = {key: text.replace(str(base), str(place)) for key, text in places.items()}
        made[name] = Run(place, there)
    return made


def test_identifiers_are_whole_and_nothing_is_python(runs: dict[str, Run]) -> None:
    """Each digest and ARN of the JSON document stands in the text; nothing is cut, nothing is a repr."""
    wrong = []
    for text in (*FIRST, *RUNS, *LAST):
        elsewhere = next((names for words, names in SHOWN_ELSEWHERE.items() if text.startswith(words)), set())
        wanted = identifiers(json.loads(runs["json"].pipe(text, "--json")[0]), elsewhere)
        for shown in (runs["pipe"].pipe(text)[1], runs["terminal"].terminal(text)):
            there = set(IDENTIFIER.findall(shown))
            lacks = len(wanted) > len(there) if any(word in text for word in MAKES) else wanted - there
            if lacks or CUT_OR_PYTHON.search(shown):
                wrong.append(f"{text}: lacks {lacks}\n{shown}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (
            "verify receipt result.cbor --manifest manifest.cbor {quorum} --release {release} --profile aws",
            1,
            "--profile local accepts it, and it attests nothing)",
        ),
        ("verify attestation document --expect expected --root {ca}", 1, "--at document as of its own time"),
        (
            f"verify attestation document --expect expected --root {{ca}} --at {EARLY.isoformat()}",
            1,
            "--at is before it was made (5000 ms ahead",
        ),
    ],
)
def test_a_refusal_names_its_likely_cause(words: str, code: int, cause: str, runs: dict[str, Run]) -> None:
    """The simulator's root without its profile, a document after its certificates, a clock that is slow."""
    done = runs["early"].run(words.format(**runs["early"].places).split())
    assert (done.returncode, cause in done.stderr.splitlines()[-1]) == (code, True), done.stderr


# Commands whose whole run takes minutes or services: what they print, of made data.


def a_bid(place: Path) -> set[str]:
    """``auction bid``: the preview, and what it binds to."""
    auction, mine = auctions.manifest(), decision()
    own = auctions.own(auction, "buyer-1")
    looked = look_before_bid(
        auction,
        own,
        check_certificate=auctions.certified,
        journal=SealJournal(place),
        when=auctions.LIFE.begins,
        again=False,
        known=("buyer-2",),
    )
    rows = b"lot,amount\nlot-1,4711\nlot-2,4711\nlot-3,\n"
    bid._preview(auction, read_bids(rows, messages.LotList(auction.lots)), show_amounts=False)
    looking.show_auction(auction, looked, own, mine)
    certifiers = {key for each in looked.others("buyer-1") for key in each.signers}
    return {auction.digest.hex(), mine.release_digest.hex(), mine.pcrs[0], own.kms, own.bids} | certifiers


def a_seal(place: Path) -> set[str]:
    """``auction seal``: all that the signature binds."""
    auction, mine = auctions.manifest(), decision()
    chosen = {"buyer-1": messages.bid_digest(b"own"), "buyer-2": b"2" * 48}
    journal = SealJournal(place)
    journal.record_bid(chosen["buyer-1"], auction.digest)
    plan = plan_seal(
        auction,
        auctions.own(auction, "buyer-1"),
        auctions.opening(mine),
        bids=chosen,
        own_bid=b"own",
        check_certificate=auctions.certified,
        journal=journal,
        now=auction.closes,
    )
    seal._explain(plan, mine)
    return {auction.digest.hex(), mine.release_digest.hex(), mine.pcrs[0], plan.own.kms} | {
        digest.hex() for digest in chosen.values()
    }


def an_audit(_: Path) -> set[str]:
    """``verify audit``: the enclaves that decrypted, and who did without a document."""
    bad = record(registers=None, eventID="2", eventTime="2026-11-23T11:00:00Z")
    report = audited(record(), bad)
    audit._show(report, collected(record(), bad).coverage)
    (group,) = report.groups
    return {*filter(None, group.values), group.module_id, "2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z"} | {
        event.caller.shown for _, event in report.found_false if event
    }


def a_deployment(_: Path) -> set[str]:
    """``deploy-from-attestation apply``: the live enclave, the verdict, what next."""
    module = "i-1234567890abcdef0-enc0123456789abcdef"
    socket = f"unix:/a/rather/long/folder/{'of-a-deployment/' * 5}run/in_5005.sock"
    enclave = Enclave(module, parse_address(socket), parse_address(socket), 1, "NONE")
    deploy._show(Live(module, NOW, enclave), as_json=False)
    deploy.tell_applied("look again with status")
    verdict = "applied: the decided enclave runs, and its live document verified"
    return {module, NOW.isoformat(), socket, verdict, "next: look again with status"}


def checked_inputs(_: Path) -> set[str]:
    """``verify inputs``: suites with the keys that signed them, and what is not confirmed."""
    keys = ("4CB50190207B4758A3F73A796ED0E7B82643E131", "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8")
    release = Release("bookworm", "oldstable-updates", NOW, None, by_hash=True, files={})
    missing = Finding("not-in-index", "libc6", "no such pin", expected="ab" * 32, found="cd" * 32)
    pins = (Pin("package", "libc6", "2.36-9+deb12u10", "ab" * 32, None, (missing,)),)
    verdict = LockVerdict("ef" * 32, NOW, (Suite("bookworm-updates", "12" * 32, release, keys),), pins)
    inputs._show(verdict)
    return {*keys, "ef" * 32, str(missing)}


def a_review(_: Path) -> set[str]:
    """``verify release review``: what moved in the lock."""
    name, version = "libpython3.11-minimal-with-a-rather-long-name", "3.11.2-6+deb12u6~of-some-archive"
    rows = [
        {"name": name, "change": "moved", "before": version, "after": f"{version}.1", "confirmed": True},
        {"name": "rich", "change": "added", "before": None, "after": "15.0.0", "confirmed": None},
    ]
    review._show(rows)
    return {name, version, f"{version}.1"}


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("shown", [a_bid, a_seal, an_audit, a_deployment, checked_inputs, a_review])
def test_what_long_commands_print_is_whole(
    shown: Callable[[Path], set[str]],
    kind: type[io.StringIO],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal of 80 columns and in a pipe: each identifier on one line, no repr, and no amount."""
    stream = kind()
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    wanted = shown(tmp_path / "seals")
    text = STYLE.sub("", stream.getvalue())
    lines = text.splitlines()
    assert {each for each in wanted if not any(each in line for line in lines)} == set()
    assert not CUT_OR_PYTHON.search(text)
    assert amounts_in(text, 4711) == set()


@pytest.mark.parametrize("phase", [1, 2])
def test_apply_on_aws_ends_in_a_verdict_and_what_next(
    phase: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first phase has a role and no enclave; the second a verified one."""
    role, module = "arn:aws:iam::111122223333:role/coattest-spring", "i-1234567890abcdef0-enc0123456789abcdef"
    parents = (Parent("i-1234567890abcdef0", "InService", module, NOW),)
    done = Applied(role, "coattest-spring-0123456789ab", parents) if phase == 2 else Applied(role)
    for name in ("_cloud", "read_plan", "_require_programs"):
        monkeypatch.setattr(stack, name, lambda *_: None)
    monkeypatch.setattr(stack.rollout, "apply_stacks", lambda *_, **__: done)
    given: dict[str, Any] = {
        "as_json": False,
        "image": Path("image.eif"),
        "plan_folder": Path("plan"),
        "retire": False,
    }
    authority: Any = SimpleNamespace(decision=decision())
    stack.apply_plan(authority, given)
    said = capsys.readouterr()
    assert role in said.out
    assert (module in said.out) == (phase == 2)
    verdict, then = said.err.splitlines()
    assert verdict.startswith("applied phase 1: " if phase == 1 else "applied: the decided enclave runs")
    assert then.startswith("next: ")
