"""`verify inputs` as a program, the pinned keys, and what a signed rebuild takes from the result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pysequoia import Cert

from coattest.errors import UsageError
from coattest.files import Folder
from coattest_build import image
from coattest_build.inputs.lock import Lock, load_lock
from coattest_build.ownwork import BUILT, CONFIRMED, INPUTS, OwnWork, sha256_hex
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE, parse_statement
from coattest_verify.rebuild.answer import answer, read_ask, read_report, sign_answer
from coattest_verify.rebuild.inputs import archive_keys
from coattest_verify.rebuild.inputs.document import confirmations
from coattest_verify.signatures.dsse import DsseEnvelope
from coattest_verify.signatures.journal import SignatureJournal
from support.build.signed_archive import SignedArchive, pin, served
from support.raises import raises_code
from support.verify.members import Members, report_json

REPOSITORY = Path(__file__).parents[4]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def run(*arguments: str, source: Path) -> subprocess.CompletedProcess[str]:
    program = "from coattest_verify.cli import main; main()"
    command = [sys.executable, "-I", "-c", program, "inputs", "--source", str(source), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The committed image.toml with a lock of pins that no archive has."""
    folder = tmp_path / "source"
    (folder / "build").mkdir(parents=True)
    (folder / "build/image.toml").write_bytes((REPOSITORY / image.IMAGE_FILE).read_bytes())
    spec = image.load_spec(folder)
    names = dict.fromkeys(spec.toolchain, ("toolchain",))
    names |= dict.fromkeys(spec.runtime, ("runtime",))
    names[spec.kernel.package] = ("kernel",)
    lock = Lock("x86_64", 0, tuple(pin(name, use=use) for name, use in sorted(names.items())), ())
    (folder / "build/image.lock").write_text(lock.render())
    return folder


def test_archive_of_ones_own_is_refused(source, tmp_path):
    """A whole archive with every pin, under a key that is not pinned: exit 1, and the document says why."""
    archive = SignedArchive(tmp_path / "archive")
    archive.publish("bookworm", *load_lock(source)[0].packages)
    archive.publish("bookworm-backports")
    target = tmp_path / "out" / "inputs.json"
    own = OwnWork()
    own.note(CONFIRMED, load_lock(source)[1])
    with served(archive.folder) as mirror:
        done = run("--mirror", mirror, "--json", "--out", str(target), source=source)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads(target.read_bytes())
    assert not document["confirmed"]
    assert {problem["code"] for suite in document["suites"] for problem in suite["findings"]} == {
        "no-pinned-signer"
    }
    # What an earlier run confirmed, this one contradicts.
    assert not own.made(CONFIRMED, document["lock_sha256"])
    assert own.made(INPUTS, sha256_hex(target.read_bytes()))


def test_mirror_that_is_down_is_exit_3(source, tmp_path):
    """Nothing that answers is a fault of the environment, and each problem is one line on stderr."""
    with served(tmp_path) as mirror:
        pass
    done = run("--mirror", mirror, source=source)
    assert done.returncode == 3
    assert re.search(r"^bookworm: .* \[index-unreachable\]$", done.stderr, re.MULTILINE)
    assert "not confirmed" in done.stderr


def test_source_without_a_lock_is_a_usage_error(source):
    """Without a lock there is nothing to ask about."""
    (source / "build/image.lock").unlink()
    assert run("--mirror", "http://127.0.0.1:9", source=source).returncode == 2


def test_shipped_keys_are_the_pinned_ones():
    """The files that are shipped carry exactly the pinned fingerprints, and no secrets."""
    assert [key.fingerprint for key in archive_keys.bookworm()] == list(archive_keys.BOOKWORM)


@pytest.mark.skipif(not KEYRING.is_file(), reason="debian-archive-keyring is not installed")
def test_shipped_keys_are_debians():
    """Debian's own keyring package has the same keys."""
    theirs = {key.fingerprint for key in Cert.split_bytes(KEYRING.read_bytes())}
    assert set(archive_keys.BOOKWORM) <= theirs


def write(folder: Path, own: OwnWork, **fields: object) -> Path:
    """A result as this machine's ``verify inputs`` would have written it."""
    document = {"format": "coattest-inputs/v1", "lock_sha256": "aa" * 32, "pins": [], **fields}
    path = folder / "inputs.json"
    path.write_text(json.dumps(document))
    own.note(INPUTS, sha256_hex(path.read_bytes()))
    return path


def test_result_counts_for_its_own_lock_and_machine_only(tmp_path):
    """A result about another lock is refused, and so is one that this machine did not make."""
    own = OwnWork(tmp_path / "state")
    path = write(tmp_path, own, pins=[{"kind": "deb", "name": "bash", "confirmed": True}])
    assert confirmations(path, "aa" * 32, own) == {"bash": True}
    with raises_code(UsageError, "wrong-lock"):
        confirmations(path, "bb" * 32, own)
    path.write_text(path.read_text().replace("true", "false"))
    with raises_code(UsageError, "not-own-work"):
        confirmations(path, "aa" * 32, own)


@pytest.mark.parametrize("fields", [{"pins": "yes"}, {"format": "other"}, {"lock_sha256": "AA" * 32}])
def test_result_that_does_not_parse_is_refused(fields, tmp_path):
    """A file that is not a result is told, not taken for "not confirmed"."""
    own = OwnWork(tmp_path / "state")
    with raises_code(UsageError, "bad-inputs"):
        confirmations(write(tmp_path, own, **fields), "aa" * 32, own)


@pytest.mark.parametrize("confirmed", [True, False])
def test_signed_rebuild_says_whether_inputs_were_confirmed(confirmed, tmp_path):
    """The statement that a member signs says what this machine's record says, whatever lies in OUT."""
    own, report = OwnWork(tmp_path / "state"), report_json()
    (tmp_path / "rebuild.json").write_text(json.dumps(report))
    own.note(BUILT, sha256_hex((tmp_path / "rebuild.json").read_bytes()))
    earlier = {"format": "coattest-inputs/v1", "confirmed": not confirmed}
    (tmp_path / "inputs.json").write_text(
        json.dumps({**earlier, "lock_sha256": report["source"]["lock_sha256"]})
    )
    own.note(INPUTS, sha256_hex((tmp_path / "inputs.json").read_bytes()))
    if confirmed:
        own.note(CONFIRMED, report["source"]["lock_sha256"])
    quorum = Members.make(tmp_path, ["buyer-1"], threshold=1, dissent="report")
    quorum.claim(report)
    with Folder(quorum.attestations) as folder:
        ask = read_ask(folder, quorum.attestations)
        statement = answer(
            ask,
            read_report(tmp_path, own).report,
            member="buyer-1",
            dissent=False,
            now=datetime(2026, 9, 1, tzinfo=timezone.utc),
        )
        path, *_ = sign_answer(
            quorum.attestations,
            ask.files,
            statement,
            ask.members,
            quorum.signers["buyer-1"],
            journal=SignatureJournal(tmp_path / "signed"),
        )
    payload = DsseEnvelope.decode(path.read_bytes(), PAYLOAD_TYPE).payload
    assert parse_statement(payload).inputs_confirmed is confirmed


@pytest.mark.slow
@pytest.mark.network
def test_committed_lock_against_the_real_archive(tmp_path):
    """Every pin of the committed lock that the archive still has is confirmed under Debian's key.

    Backports move on: a superseded pin is the one thing that may be wrong with a lock that was right.
    """
    target = tmp_path / "inputs.json"
    (tmp_path / "build").mkdir()
    for name in (image.IMAGE_FILE, image.LOCK_FILE):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    done = run("--out", str(target), "--json", source=tmp_path)
    if done.returncode == 3:
        pytest.skip(f"the mirror or the package index cannot be reached from here: {done.stderr[-300:]}")
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(target.read_bytes())
    assert all(suite["signed_by"] and not suite["findings"] for suite in document["suites"]), done.stderr
    reasons = {problem["code"] for item in document["pins"] for problem in item["findings"]}
    assert reasons <= {"wrong-version"}
    confirmed = [item for item in document["pins"] if item["confirmed"]]
    assert len(confirmed) > len(document["pins"]) // 2
