"""verify attestation, run as a program."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from coattest.findings import Finding
from coattest_verify.attestation.rules import FUTURE_TIMESTAMP
from support.verify.attestation_cli import verify, verify_json
from support.verify.nitro_ca import MODULE, NOW, PCRS, document, usual_chain

pytest.importorskip("click", reason="the library's matrix runs without the command line")
pytest.importorskip("rich", reason="the library's matrix runs without the command line")

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"
ROOT = f"sha256:{usual_chain().root.sha256.hex()}"
AT = ["--at", NOW.isoformat(), "--root", ROOT]
UNSAFE = ["--unsafe-any-measurement", "--unsafe-allow-debug"]
real = pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/vectors is not there")


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    """What ``eif measure`` prints for the image of the test documents."""
    path = tmp_path / "measurements.json"
    registers = {f"PCR{index}": PCRS[index].hex() for index in (0, 1, 2)}
    path.write_text(json.dumps({"Measurements": {"HashAlgorithm": "Sha384 { ... }", **registers}}))
    return path


def test_a_document_that_is_as_expected_is_accepted(tmp_path: Path, measurements: Path) -> None:
    """Exit code 0, and the fields for people; hex and base64 are read as well."""
    data = document(user_data=b"\x01\x02", public_key=b"\x03")
    expected = [
        "--expect",
        measurements,
        "--nonce",
        b"nonce".hex(),
        "--user-data",
        "0102",
        "--public-key",
        "03",
    ]
    for name, content in (("d.bin", data), ("d.hex", data.hex().encode()), ("d.b64", base64.b64encode(data))):
        path = tmp_path / name
        path.write_bytes(content)
        done = verify(path, *AT, *expected, "--module-id", MODULE, "--max-age", "0", "--strict")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("accepted at 2026-01-15T12:00:00+00:00")
        assert MODULE in done.stdout
        assert PCRS[0].hex() in done.stdout


def test_an_age_at_the_documents_own_time_is_refused(tmp_path: Path, measurements: Path) -> None:
    """It would be zero for every document: --max-age beside --at document checks nothing."""
    path = tmp_path / "d.bin"
    path.write_bytes(document())
    done = verify(path, "--at", "document", "--root", ROOT, "--expect", measurements, "--max-age", "300000")
    assert done.returncode == 2
    assert "--max-age checks nothing" in done.stderr


def test_a_document_that_the_index_gives_no_time_is_refused(tmp_path: Path, measurements: Path) -> None:
    """--at index takes no time from the document itself; folders inside are listed as not looked at."""
    good = document()
    (tmp_path / "a.bin").write_bytes(good)
    (tmp_path / "b.bin").write_bytes(good)
    (tmp_path / "more").mkdir()
    index = f"filename\tsha256\tdoc_time_utc\na.bin\t{hashlib.sha256(good).hexdigest()}\t{NOW.isoformat()}\n"
    (tmp_path / "INDEX.tsv").write_text(index)
    code, batch = verify_json(tmp_path, "--at", "index", "--root", ROOT, "--expect", measurements)
    assert (code, batch["accepted"], batch["refused"]) == (1, 1, 1)
    assert batch["skipped"] == ["measurements.json", "more/"]


def test_every_reason_is_shown(tmp_path: Path, measurements: Path) -> None:
    """Exit code 1, and each finding on its line, with what was expected and found."""
    path = tmp_path / "d.bin"
    path.write_bytes(document(pcrs={**PCRS, 0: b"\xee" * 48}, nonce=None))
    done = verify(
        path, *AT, "--expect", measurements, "--nonce", "00", "--user-data", "ff", "--module-id", "x"
    )
    assert done.returncode == 1
    assert done.stdout.startswith("refused at")
    for part in (
        "PCR0: expected 0101",
        "nonce: expected 00, found null",
        "user_data: expected ff",
        "module_id:",
    ):
        assert part in done.stdout
    code, verdict = verify_json(
        path, *AT, "--expect", measurements, "--nonce", "null", "--public-key", "null"
    )
    assert (code, verdict["ok"], verdict["code"], verdict["codes"]) == (
        1,
        False,
        "measurement",
        ["measurement"],
    )
    assert "document" not in verdict


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ((1,), "PCR0 covers all that PCR1 does"),
        ((2,), "PCR0 covers all that PCR2 does"),
        ((0, 1), "boot ramdisk differs, and PCR2"),
        ((0, 2), "the application differs, and PCR1"),
        ((0,), None),
        ((0, 1, 2), None),
    ],
)
def test_which_registers_differ_says_what_does(
    tmp_path: Path, measurements: Path, wrong: tuple[int, ...], cause: str | None
) -> None:
    """A register that differs alone is in the expectation, not in the image."""
    path = tmp_path / "d.bin"
    path.write_bytes(document(pcrs={**PCRS, **dict.fromkeys(wrong, b"\xee" * 48)}))
    done = verify(path, *AT, "--expect", measurements)
    assert done.returncode == 1
    assert (cause or "") in done.stderr
    assert ("likely cause" in done.stderr) is (cause is not None)


def test_a_time_before_the_document_is_said_to_be_early(tmp_path: Path) -> None:
    """The clocks do not differ where the person gave the time."""
    path = tmp_path / "d.bin"
    path.write_bytes(document())
    done = verify(path, *UNSAFE, "--root", ROOT, "--at", (NOW - timedelta(days=1)).isoformat())
    assert done.returncode == 1
    assert "likely cause: --at is before it was made (" in done.stderr
    assert "timedatectl" not in done.stderr


def test_a_document_of_the_future_is_a_clock_that_differs() -> None:
    """Where the person gave no time, this machine's clock is what was compared."""
    pytest.importorskip("click", reason="the library's matrix runs without the command line")
    from coattest_verify.cli.attestation.causes import likely_causes

    findings = [Finding(FUTURE_TIMESTAMP.code, "timestamp", "later", found="5000 ms ahead")]
    (cause,) = likely_causes(findings, option="--root")
    assert cause.startswith("the clocks differ: it is 5000 ms ahead; set this machine's clock")


def test_a_root_is_named_by_its_digest(tmp_path: Path) -> None:
    """In either case of letters; anything else is told what to give."""
    path = tmp_path / "d.bin"
    path.write_bytes(document())
    digest = ROOT.removeprefix("sha256:")
    for root in (ROOT, f"SHA256:{digest.upper()}"):
        done = verify(path, *UNSAFE, "--at", NOW.isoformat(), "--root", root)
        assert done.returncode == 0
        assert f"under root {ROOT}\n" in done.stdout
    for root in (digest, "sha256:00", "AWS"):
        done = verify(path, *UNSAFE, "--root", root)
        assert done.returncode == 2
        assert "(aws, local, or sha256: and the 64 hex digits of" in done.stderr


def test_something_must_be_expected(tmp_path: Path) -> None:
    """Without measurements and without the flag that says so, exit code 2, for one document and for many."""
    path = tmp_path / "d.bin"
    path.write_bytes(document())
    for target in (path, tmp_path):
        done = verify(target, *AT, "--nonce", "00")
        assert done.returncode == 2
        assert "--unsafe-any-measurement" in done.stderr
        code, error = verify_json(target, *AT)
        assert (code, error["code"]) == (2, "empty-expectations")


def test_debug_needs_its_own_flag(tmp_path: Path) -> None:
    """Any measurement is not any mode."""
    path = tmp_path / "d.bin"
    path.write_bytes(document(pcrs={**PCRS, 0: bytes(48), 1: bytes(48), 2: bytes(48)}))
    code, verdict = verify_json(path, *AT, "--unsafe-any-measurement")
    assert (code, verdict["codes"]) == (1, ["debug-mode"])
    assert verify(path, *AT, *UNSAFE).returncode == 0


def test_the_default_time_and_root_are_now_and_aws(tmp_path: Path) -> None:
    """A test document of the past below a test root has neither."""
    path = tmp_path / "d.bin"
    path.write_bytes(document())
    code, verdict = verify_json(path, *UNSAFE)
    assert code == 1
    assert {"root", "certificate-dates"} <= set(verdict["codes"])
    assert verdict["root"].startswith("AWS Nitro")
    assert verify_json(path, *UNSAFE, "--root", "local")[1]["root"].startswith("coattest simulator")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--at", "yesterday"],
        ["--at", "2026-01-15T12:00:00"],
        ["--at", "index"],
        ["--root", "mars"],
        ["--root", "sha256:00"],
        ["--root", "sha256:xyz"],
        ["--nonce", "xyz"],
        ["--nonce", "0"],
        ["--nonce", ""],
        ["--nonce", " "],
        ["--user-data", ""],
        ["--public-key", ""],
        ["--max-age", "-1"],
        ["--max-age", "soon"],
        ["--expect", "/nonexistent"],
        ["--module-id", ""],
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: list[str]) -> None:
    """Exit code 2, and not a word on stdout."""
    path = tmp_path / "d.bin"
    path.write_bytes(document())
    done = verify(path, *UNSAFE, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_document_is_refused(tmp_path: Path) -> None:
    """Empty, too large, or something else: exit code 1 with the reason."""
    for content in (b"", b"\x00", b"\x84" * 100_000, b"hello", b"84" * 50_000):
        path = tmp_path / "d.bin"
        path.write_bytes(content)
        code, verdict = verify_json(path, *AT, *UNSAFE)
        assert code == 1
        assert verdict["code"] in {"envelope", "too-large", "malformed-cbor", "not-a-document"}
        assert [finding["code"] for finding in verdict["findings"]] == verdict["codes"]
    assert verify(tmp_path / "absent.bin", *UNSAFE).returncode == 2


def test_what_a_document_says_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    """Control characters and markup in a module_id are shown, not obeyed."""
    path = tmp_path / "d.bin"
    path.write_bytes(document(module_id="i-1\x1b[31m\n[red]x[/red]\u202e"))
    done = verify(path, *AT, *UNSAFE)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "[red]x[/red]" in done.stdout


def test_a_directory_is_a_batch(tmp_path: Path) -> None:
    """A line for each document, what was skipped is named, and one refusal makes exit code 1."""
    (tmp_path / "a.bin").write_bytes(document())
    (tmp_path / "b.hex").write_text(document(nonce=b"x").hex())
    (tmp_path / "notes.md").write_text("no document")
    code, batch = verify_json(tmp_path, *AT, *UNSAFE)
    assert (code, batch["accepted"], batch["refused"], batch["skipped"]) == (0, 2, 0, ["notes.md"])
    assert [entry["file"] for entry in batch["documents"]] == ["a.bin", "b.hex"]
    (tmp_path / "c.bin").write_bytes(document()[:-1])
    code, batch = verify_json(tmp_path, *AT, *UNSAFE)
    assert (code, batch["accepted"], batch["refused"]) == (1, 2, 1)
    done = verify(tmp_path, *AT, *UNSAFE)
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert "notes.md" in done.stderr


def test_an_empty_directory_is_not_a_success(tmp_path: Path) -> None:
    """Nothing to verify is the caller's mistake, not a pass."""
    (tmp_path / "notes.md").write_text("no document")
    assert verify(tmp_path, *UNSAFE).returncode == 2


def test_an_index_gives_times_and_digests(tmp_path: Path) -> None:
    """--at index verifies each at its time; a file that is not the one the index names is refused."""
    (tmp_path / "a.bin").write_bytes(document())
    (tmp_path / "INDEX.tsv").write_text("filename\tdoc_time_utc\na.bin\t2026-01-15T12:00:00+00:00\n")
    arguments = [tmp_path, "--at", "index", "--root", ROOT, *UNSAFE]
    assert verify_json(*arguments)[0] == 0
    (tmp_path / "INDEX.tsv").write_text("filename\tdoc_time_utc\na.bin\t2025-01-15T12:00:00+00:00\n")
    assert verify_json(*arguments)[1]["documents"][0]["code"] == "certificate-dates"
    (tmp_path / "INDEX.tsv").write_text(
        f"filename\tsha256\tdoc_time_utc\na.bin\t{'00' * 32}\t2026-01-15T12:00:00+00:00\n"
    )
    code, batch = verify_json(*arguments)
    assert (code, batch["documents"][0]["ok"], batch["documents"][0]["codes"]) == (1, False, ["index"])
    assert "SHA-256 differs" in batch["documents"][0]["findings"][0]["detail"]
    (tmp_path / "INDEX.tsv").write_text("filename\nabsent.bin\n")
    assert verify(*arguments).returncode == 2


@real
def test_every_real_document_is_accepted_at_its_time() -> None:
    """The archive of real documents passes as a whole; the empty public_key by its rule, with a notice."""
    code, batch = verify_json(VECTORS / "attestation", "--at", "index", *UNSAFE)
    assert code == 0
    assert (batch["accepted"], batch["refused"]) == (len(batch["documents"]), 0)
    assert batch["accepted"] >= 37
    noticed = [entry["file"] for entry in batch["documents"] if entry["notices"]]
    assert noticed == ["2021-10-28_debug_hf_nitrite_6c096a02.bin"]
    by_claim = verify_json(VECTORS / "attestation", "--at", "document", *UNSAFE)[1]
    assert by_claim["accepted"] == batch["accepted"]


@real
def test_every_negative_document_is_refused_with_its_reason() -> None:
    """Nothing of the archive of negatives passes, with everything unsafe allowed."""
    code, batch = verify_json(VECTORS / "attestation-negative", "--at", "document", *UNSAFE)
    assert (code, batch["accepted"]) == (1, 0)
    reasons = {entry["file"].split("_")[2]: entry["code"] for entry in batch["documents"]}
    assert reasons == {
        "brave": "envelope",
        "fortanix": "signature",
        "worldcoin": "root",
        "reclaimprotocol": "nitro-tpm",
    }
