"""``verify fleet`` as it is typed, with a quorum's own files and documents of the simulator's hypervisor."""

from __future__ import annotations

import base64
import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cbor2
import pytest
from click.testing import CliRunner, Result

from coattest import extras
from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import Folder
from coattest_local.host.nsm import SimulatedNsm, boot_pcrs
from coattest_verify.cli import cli
from coattest_verify.cli.fleet import command as fleet_module
from coattest_verify.cli.fleet.command import fleet_command, watch
from coattest_verify.fleet.judge import FALSE, OPEN, VERIFIED
from coattest_verify.fleet.metrics import HELP
from coattest_verify.quorum.bundle import make_bundle
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from support.guides.blocks import ROOT, blocks_of
from support.local.local_enclave import PCRS
from support.loopback import Handler, Loopback
from support.raises import raises_code
from support.verify.fleet.worlds import FleetWorld, files_toml, module
from support.verify.members import NOW, Members, profile_json, report_json

HOUR = timedelta(hours=1)
PAGE = (ROOT / "docs" / "fleet.md").read_text()


def present() -> datetime:
    """The command judges at this machine's time."""
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Release 0.1.0, on which both agree; its local image has PCRS."""
    made = Members.make(tmp_path_factory.mktemp("quorum"))
    local = profile_json("local", "image.local.eif")
    local["pcrs"] = {f"PCR{index}": value.hex() for index, value in PCRS.items()}
    report = report_json(profiles={"aws": profile_json("aws"), "local": local})
    made.claim(report)
    for name in ("buyer-1", "buyer-2"):
        made.sign(name, report, age=NOW - present() + HOUR)
    return made


@pytest.fixture
def folder(quorum: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a bundle, and a memory of its own."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    with Folder(quorum.attestations) as evidence:
        (tmp_path / "bundle.json").write_bytes(make_bundle(evidence, now=present()))
    yield tmp_path
    for revocation in quorum.released.glob("revoke.*"):
        revocation.unlink()


def document(number: int, nonce: bytes | None = None, pcrs: dict[int, bytes] = PCRS) -> bytes:
    """A fresh document of the simulator's."""
    registers = boot_pcrs(pcrs, pcr3=bytes(48), pcr4=bytes(48))
    nsm = SimulatedNsm(module_id=module(number), pcrs=registers)
    asked = {"Attestation": {"user_data": None, "nonce": nonce, "public_key": None}}
    answer = cbor2.loads(nsm.respond(cbor2.dumps(asked), now=present()))
    return bytes(answer["Attestation"]["document"])


def invoke(quorum: Members, *words: str) -> Result:
    """The command with the quorum's root, in the local profile, and how it ended."""
    deciding = ["--bundle", "bundle.json", "--root", f"sha256:{quorum.root.hex()}", "--profile", "local"]
    return CliRunner().invoke(fleet_command, ["FLEET.toml", *deciding, *words], standalone_mode=False)


def run(quorum: Members, *words: str) -> Result:
    """The same; raises what the command raised."""
    done = invoke(quorum, *words)
    if done.exception is not None:
        raise done.exception
    return done


def of_files(folder: Path, *numbers: int, **changes: Any) -> FleetWorld:
    """FLEET.toml with a source of files, and fresh documents."""
    world = FleetWorld(folder)
    world.write(files_toml(**{"count": len(numbers), **changes}))
    for number in numbers:
        world.put(f"{number}.bin", document(number))
    return world


class Nitriding(Handler):
    """An enclave's endpoint of nitriding's form, one for each port."""

    def do_GET(self) -> None:
        """The document over the nonce of the query, in base64."""
        nonce = bytes.fromhex(self.path.partition("?nonce=")[2])
        assert self.path.startswith("/enclave/attestation?")
        self.answer(200, base64.b64encode(document(self.server.server_address[1], nonce)) + b"\n")


def test_the_example_of_the_page_is_typed(quorum: Members, folder: Path) -> None:
    """Its FLEET.toml and its command, with hosts of this machine; the table has whole identifiers."""
    toml = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    (typed,) = [each.text for block in blocks_of("docs/fleet.md") for each in block.commands]
    with Loopback.of(Nitriding) as one, Loopback.of(Nitriding) as two:
        text = toml.replace("https://", "http://")
        text = text.replace("10.0.1.17:8443", f"127.0.0.1:{one.port}")
        text = text.replace("10.0.2.4:8443", f"127.0.0.1:{two.port}")
        of_files(folder, 1, 2).write(text)
        words = shlex.split(typed.replace("\\\n", "").replace("$ROOT", f"sha256:{quorum.root.hex()}"))
        assert words[:2] == ["verify", "fleet"]
        done = CliRunner().invoke(cli, [*words[1:], "--profile", "local"], standalone_mode=False)
    assert (done.exception, done.return_value) == (None, 0), done.output
    for number in (1, 2, one.port, two.port):
        assert module(number) in done.stdout
    assert "4 verified; 4 expected" in done.stdout
    assert (folder / "fleet.prom").exists()
    assert json.loads((folder / "fleet.json").read_text())["releases"] == {"0.1.0": "decided"}


def test_the_page_has_every_field_and_no_other() -> None:
    """A field that was added, or renamed, is noticed."""
    rows = re.findall(
        r"^\| (`[^|]*) \| ", PAGE.split("## FLEET.toml")[1].split("## Watching")[0], re.MULTILINE
    )
    on_page = set(re.findall(r"`(?:\[\[[a-z]+\]\]` `)?([a-z][a-z-]*)`", " ".join(rows)))
    files = ("file.py", "keys.py", "grammar.py")
    text = "".join((ROOT / "verify/coattest_verify/fleet" / name).read_text() for name in files)
    reading = r'(?:fields\.[a-z]+\(|optional\(\s*|(?:duration_of|texts_of|_path)\(fields, )"([a-z-]+)"'
    read = set(re.findall(reading, text))
    assert on_page == read - {"source"}


def test_a_bucket_needs_the_extra_and_credentials(
    quorum: Members, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is asked, with the example of the page: one line each."""
    of_files(folder, 1).write(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with raises_code(EnvironmentFailure, "no-credentials"):
        run(quorum)
    monkeypatch.setattr(extras, "EXTRAS", {"aws": ("not_there",)})
    with raises_code(EnvironmentFailure, "missing-extra", match="extra 'aws'"):
        run(quorum)


def test_json_is_one_document(quorum: Members, folder: Path) -> None:
    """With the release's answer, and every enclave."""
    of_files(folder, 1)
    done = run(quorum, "--json")
    found = json.loads(done.stdout)
    assert (done.return_value, found["ok"], found["releases"][0]["answer"]) == (0, True, "decided")
    assert found["sources"][0]["enclaves"][0]["module_id"] == module(1)


def test_a_drifted_enclave_is_exit_1_with_its_registers(quorum: Members, folder: Path) -> None:
    """On stderr stand the expected and the found value."""
    world = of_files(folder, 1, 2)
    other = {0: bytes([7]) * 48, 1: PCRS[1], 2: PCRS[2]}
    world.put("2.bin", document(2, pcrs=other))
    done = run(quorum)
    assert done.return_value == 1
    assert re.search(rf"^│ {module(2)} +│ drifted +│ +│ +\d+ s +│$", done.stdout, re.MULTILINE), done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "parents 2.bin: drifted: PCR0: " in done.stderr
    assert PCRS[0].hex() in done.stderr
    assert other[0].hex() in done.stderr


def test_a_revocation_in_the_bundle_is_an_alarm(quorum: Members, folder: Path) -> None:
    """The next look at the same enclaves, with a newer bundle."""
    of_files(folder, 1)
    assert run(quorum, "--state", "state.json").return_value == 0
    assert quorum.claimed is not None
    vote = make_vote(
        REVOKE, "buyer-1", root=quorum.root, claim=quorum.claimed, note="CVE-2026-1", now=present() - HOUR
    )
    quorum.write(vote_name(vote), sign_vote(vote, quorum.signers["buyer-1"]))
    with Folder(quorum.attestations) as evidence:
        (folder / "bundle.json").write_bytes(make_bundle(evidence, now=present()))
    done = run(quorum, "--state", "state.json")
    assert done.return_value == 1
    assert "alarm: release 0.1.0: is revoked" in done.stderr
    assert (
        f"alarm: parents 1.bin: is revoked ({module(1)}): buyer-1: revoked this release: CVE" in done.stderr
    )


def test_a_release_that_nobody_claimed_is_not_decided(quorum: Members, folder: Path) -> None:
    """And no enclave is verified by it: it runs something else than what was decided."""
    of_files(folder, 1, releases=["0.9.0"])
    done = run(quorum)
    assert (done.return_value, "0 verified, 1 expected" in done.stdout) == (1, True)
    assert "release 0.9.0: pending" in done.stdout


class Enough(Exception):
    """Ends the loop."""


def test_every_goes_on_after_a_look_that_failed(
    quorum: Members, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that is gone for one look is told; each look has a line, and what changed another."""
    world = of_files(folder, 1)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            (folder / "bundle.json").rename(folder / "away.json")
        if len(slept) == 2:
            (folder / "away.json").rename(folder / "bundle.json")
            world.put("1.bin", document(2))
        if len(slept) == 3:
            raise Enough

    monkeypatch.setattr(fleet_module, "watch", lambda watcher, every: watch(watcher, every, sleep=sleep))
    done = invoke(quorum, "--every", "2m")
    assert isinstance(done.exception, Enough)
    said = done.output
    assert [60 < seconds <= 120 for seconds in slept] == [True] * 3
    assert said.count("1 verified; 1 expected") == 2
    assert "no such file" in said
    assert f"news: parents 1.bin: {module(1)} was replaced by {module(2)}" in said


def test_what_makes_no_sense_is_refused(quorum: Members, folder: Path) -> None:
    """--json with --every, a time that is none, and a FLEET.toml that does not parse."""
    world = of_files(folder, 1)
    for words in (("--every", "2m", "--json"), ("--every", "0"), ("--every", "often")):
        with pytest.raises(UsageError):
            run(quorum, *words)
    world.write("format = 1")
    with pytest.raises(UsageError, match=r"fleet\.md"):
        run(quorum)


def test_the_page_names_every_status_and_figure() -> None:
    """The table of statuses with its exit codes, and the table of figures, are the code's."""
    codes = dict(re.findall(r"^\| `([a-z]+)` \|.*\| ([013]) \|$", PAGE, re.MULTILINE))
    assert codes == {VERIFIED: "0", **dict.fromkeys(FALSE, "1"), **dict.fromkeys(OPEN, "3")}
    figures = re.findall(
        r"^\| `([a-z_]+)` \| .*\|.*\|$", PAGE.split("(`coattest_fleet_..`)")[1], re.MULTILINE
    )
    assert figures == list(HELP)


UNIT = ROOT / "verify/coattest_verify/fleet/coattest-fleet.service"


def test_the_unit_runs_the_command_with_options_that_it_has() -> None:
    """From the words of its ExecStart; what a verdict rests on comes from fleet.env."""
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(UNIT)
    words = parsed["Service"]["ExecStart"].split()
    assert words[:3] == ["/usr/bin/env", "verify", "fleet"]
    known = {option for each in fleet_command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert parsed["Service"]["Restart"] == "always"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_not_exposed() -> None:
    """systemd-analyze security finds at most 3 of 10; no core dumps."""
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert {"User=coattest", "LimitCORE=0", "CapabilityBoundingSet="} <= set(UNIT.read_text().splitlines())
