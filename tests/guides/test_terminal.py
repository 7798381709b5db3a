"""What a person reads: every identifier whole on one line, on a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from base_install import BIN, MANAGING, MINE, RUNS
from support.build.container_images import entry, folder, saved, tar
from support.build.found_images import nitro
from support.local.local_enclave import PCRS as DECIDED
from support.verify.base_world import make_world
from support.verify.nitro_ca import NOW, PCRS, document, usual_chain
from support.yes import the_yes_to

COLUMNS = 80
EARLY = NOW - timedelta(seconds=5)

FIRST = (
    f"verify attestation document --expect expected --root {{ca}} --at {NOW.isoformat()}",
    "verify release which measured --profile local {quorum}",
    "verify report --member buyer-2 --key quorum/keys/buyer-2 --kms-key {kms} --bids s3://bids/ "
    "--parent-role arn:aws:iam::111122223333:role/parent --out report.json {deciding}",
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
            [BIN / words[0], *words[1:]],
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
            [BIN / words[0], *words[1:]],
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
    for name, values in (("expected", PCRS), ("measured", DECIDED)):
        registers = {f"PCR{index}": values[index].hex() for index in (0, 1, 2)}
        (base / name).write_text(json.dumps(registers))
    (base / "measured").write_text(
        json.dumps({f"PCR{index}": value.hex() for index, value in DECIDED.items()})
    )
    (base / "image.eif").write_bytes(nitro().build())
    (base / "image.tar").write_bytes(saved([tar(folder("d"), entry("d/x", b"1"))]))
    attestations = str(world.members.attestations)
    places = {
        "attestations": attestations,
        "deciding": " ".join(world.deciding),
        "managing": MANAGING,
        "release": world.members.released.name,
        "quorum": f"--attestations {attestations} --root sha256:{world.members.root.hex()}",
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
            "the clocks differ: it is 5000 ms ahead",
        ),
    ],
)
def test_a_refusal_names_its_likely_cause(words: str, code: int, cause: str, runs: dict[str, Run]) -> None:
    """The simulator's root without its profile, a document after its certificates, a clock that is slow."""
    done = runs["early"].run(words.format(**runs["early"].places).split())
    assert (done.returncode, cause in done.stderr.splitlines()[-1]) == (code, True), done.stderr
