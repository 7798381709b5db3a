"""verify attestation DIR, with nothing expected: an archive, judged at its own times, whoever wrote it."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.verify.attestation_cli import verify, verify_json
from support.verify.nitro_ca import NOW, PCRS, document, usual_chain

pytest.importorskip("click", reason="the library's matrix runs without the command line")
pytest.importorskip("rich", reason="the library's matrix runs without the command line")

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"
ROOT = ["--root", f"sha256:{usual_chain().root.sha256.hex()}"]
DEBUG = {**PCRS, 0: bytes(48), 1: bytes(48), 2: bytes(48)}
COLUMNS = ("filename", "sha256", "doc_time_utc", "mode")
real = pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/vectors is not there")


def line(name: str, data: bytes, **changes: str) -> dict[str, str]:
    """What a right index says of a document, with ``changes`` to it."""
    cells = (name, hashlib.sha256(data).hexdigest(), NOW.isoformat(), "prod")
    return {**dict(zip(COLUMNS, cells, strict=True)), **changes}


def write_index(folder: Path, *lines: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> None:
    """An INDEX.tsv with these columns of these lines."""
    rows = [columns, *([cells[column] for column in columns] for cells in lines)]
    (folder / "INDEX.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


def archive(folder: Path, **changes: str) -> bytes:
    """An archive of one document, a.bin, with ``changes`` to what its index says; returns the document."""
    data = document()
    (folder / "a.bin").write_bytes(data)
    write_index(folder, line("a.bin", data, **changes))
    return data


def reasons(folder: Path) -> dict[str, list[str]]:
    """The reasons of every document of an archive; the exit code has to be 1."""
    code, batch = verify_json(folder, *ROOT)
    assert code == 1
    return {entry["file"]: entry["codes"] for entry in batch["documents"]}


@real
def test_every_real_document_is_genuine_at_its_time() -> None:
    """`verify attestation ../shared/vectors/attestation --json`, and not one flag more."""
    code, batch = verify_json(VECTORS / "attestation")
    assert code == 0
    assert (batch["judged_as"], batch["measurements_judged"]) == ("archive", False)
    assert (batch["accepted"], batch["refused"]) == (len(batch["documents"]), 0)
    assert batch["accepted"] >= 37
    assert batch["skipped"] == ["aws-nitro-root-g1.pem"]
    for entry in batch["documents"]:
        assert (entry["ok"], entry["judged_as"], entry["measurements_judged"]) == (True, "archive", False)
        assert entry["debug"] == entry["document"]["debug"] == ("_debug_" in entry["file"])
        assert entry["file"].startswith(entry["checked_at"][:10])
    noticed = [entry["file"] for entry in batch["documents"] if entry["notices"]]
    assert noticed == ["2021-10-28_debug_hf_nitrite_6c096a02.bin"]
    assert verify_json(VECTORS / "attestation", "--strict")[1]["refused"] == 1


@real
def test_every_negative_document_is_refused_with_its_reason() -> None:
    """`verify attestation ../shared/vectors/attestation-negative --json`: exit code 1, none accepted."""
    code, batch = verify_json(VECTORS / "attestation-negative")
    assert (code, batch["accepted"], batch["refused"]) == (1, 0, 4)
    assert {entry["file"].split("_")[2]: entry["codes"] for entry in batch["documents"]} == {
        "brave": ["envelope"],
        "fortanix": ["signature", "debug-mode"],
        "worldcoin": ["root", "certificate", "signature"],
        "reclaimprotocol": ["nitro-tpm"],
    }
    assert all(entry["debug"] is None and "document" not in entry for entry in batch["documents"])


@real
def test_a_real_document_alone_is_no_archive() -> None:
    """One document has no index: something must be expected of it."""
    done = verify(VECTORS / "attestation" / "2026-02-06_prod_Epsilon-Data_nitro-verify_1ad417fa.bin")
    assert (done.returncode, done.stdout) == (2, "")


def test_an_archive_is_called_what_it_is(tmp_path: Path) -> None:
    """The word is not "accepted", and one line on stderr says what was not judged and which flags do."""
    archive(tmp_path)
    debug = document(pcrs=DEBUG)
    (tmp_path / "b.bin").write_bytes(debug)
    write_index(
        tmp_path, line("a.bin", (tmp_path / "a.bin").read_bytes()), line("b.bin", debug, mode="debug")
    )
    done = verify(tmp_path, *ROOT)
    assert done.returncode == 0
    assert "accepted" not in done.stdout
    first, second = done.stdout.splitlines()[1:]
    assert first.startswith("genuine at its time  prod")
    assert second.startswith("genuine at its time  debug")
    (said,) = done.stderr.splitlines()
    for part in ("nothing about today", "any measurement", "--expect", "--nonce", "--max-age"):
        assert part in said


@pytest.mark.parametrize(
    "flags",
    [
        ["--nonce", "00"],
        ["--user-data", "null"],
        ["--public-key", "null"],
        ["--module-id", "i-1"],
        ["--max-age", "0"],
        ["--at", "index"],
        ["--at", "document"],
        ["--at", NOW.isoformat()],
        ["--unsafe-allow-debug"],
    ],
)
def test_who_expects_something_must_expect_measurements(tmp_path: Path, flags: list[str]) -> None:
    """A directory with an index is no way around them: with any expectation or time, exit code 2."""
    archive(tmp_path)
    code, error = verify_json(tmp_path, *ROOT, *flags)
    assert (code, error["code"]) == (2, "empty-expectations")


def test_with_any_measurement_a_directory_is_judged_now(tmp_path: Path) -> None:
    """Asking for any code is asking about today: the archive's times are not used."""
    archive(tmp_path)
    code, batch = verify_json(tmp_path, *ROOT, "--unsafe-any-measurement")
    assert (code, batch["documents"][0]["codes"]) == (1, ["certificate-dates"])
    assert "judged_as" not in batch


WRONG: dict[str, tuple[dict[str, str], list[str]]] = {
    "other bytes": ({"sha256": "00" * 32}, ["document-digest"]),
    "another second": ({"doc_time_utc": (NOW + timedelta(seconds=1)).isoformat()}, ["too-old"]),
    "the second before": (
        {"doc_time_utc": (NOW - timedelta(seconds=1)).isoformat()},
        ["future-timestamp"],
    ),
    "another day": (
        {"doc_time_utc": (NOW + timedelta(days=1)).isoformat()},
        ["certificate-dates", "too-old"],
    ),
    "debug mode": ({"mode": "debug"}, ["not-debug-mode"]),
}


@pytest.mark.parametrize(("changes", "expected"), WRONG.values(), ids=WRONG)
def test_an_index_that_says_otherwise_refuses(
    tmp_path: Path, changes: dict[str, str], expected: list[str]
) -> None:
    """The bytes, the second and the mode have to be the index's."""
    archive(tmp_path, **changes)
    assert reasons(tmp_path) == {"a.bin": expected}


def test_debug_passes_only_where_the_index_says_so(tmp_path: Path) -> None:
    """An index that calls a debug document prod, or says nothing of modes, does not let it pass."""
    data = document(pcrs=DEBUG)
    (tmp_path / "a.bin").write_bytes(data)
    write_index(tmp_path, line("a.bin", data))
    assert reasons(tmp_path) == {"a.bin": ["debug-mode"]}
    write_index(tmp_path, line("a.bin", data), columns=COLUMNS[:3])
    assert reasons(tmp_path) == {"a.bin": ["debug-mode"]}


def test_without_a_time_a_document_is_judged_at_the_one_it_claims(tmp_path: Path) -> None:
    """Its chain has to be in date then; a document that claims another time is refused."""
    data = archive(tmp_path)
    write_index(tmp_path, line("a.bin", data), columns=("filename", "sha256"))
    code, batch = verify_json(tmp_path, *ROOT)
    assert (code, batch["documents"][0]["checked_at"]) == (0, NOW.isoformat())
    late = document(timestamp=int((NOW + timedelta(days=2)).timestamp() * 1000))
    (tmp_path / "a.bin").write_bytes(late)
    write_index(tmp_path, line("a.bin", late), columns=("filename", "sha256"))
    assert reasons(tmp_path) == {"a.bin": ["certificate-dates", "timestamp-outside-certificate"]}


def test_a_forged_document_does_not_pass_because_its_index_names_it(tmp_path: Path) -> None:
    """Whoever writes the documents writes the index too: the chain and the signature decide."""
    data = archive(tmp_path)
    forged = data[:-1] + bytes([data[-1] ^ 1])
    (tmp_path / "a.bin").write_bytes(forged)
    write_index(tmp_path, line("a.bin", forged))
    assert reasons(tmp_path) == {"a.bin": ["signature"]}
    code, batch = verify_json(tmp_path)
    assert (code, batch["documents"][0]["codes"][0]) == (1, "root")


def test_one_bad_file_is_refused_alone(tmp_path: Path) -> None:
    """Absent, a link, a folder, a pipe, too large, not named: each is refused, and the rest are judged."""
    data = archive(tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}-outside.bin"
    outside.write_bytes(data)
    (tmp_path / "link.bin").symlink_to(outside)
    (tmp_path / "folder.bin").mkdir()
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "stray.bin").write_bytes(data)
    large = b"\x84" * 1_000_000
    (tmp_path / "large.bin").write_bytes(large)
    (tmp_path / "notes.md").write_text("no document")
    named = ("absent.bin", "link.bin", "folder.bin", "pipe.bin")
    write_index(
        tmp_path, line("a.bin", data), line("large.bin", large), *(line(name, data) for name in named)
    )
    code, batch = verify_json(tmp_path, *ROOT)
    assert (code, batch["accepted"], batch["refused"], batch["skipped"]) == (1, 1, 6, ["notes.md"])
    found: dict[str, Any] = {entry["file"]: entry for entry in batch["documents"]}
    assert found.pop("a.bin")["ok"]
    assert set(found) == {*named, "large.bin", "stray.bin"}
    for entry in found.values():
        assert (entry["ok"], entry["codes"], entry["sha256"]) == (False, ["index"], None)


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "without a line": b"filename\tsha256\n",
    "without digests": b"filename\na.bin\n",
    "with an empty digest": b"filename\tsha256\na.bin\t\n",
    "without names": b"sha256\n" + b"ab" * 32 + b"\n",
    "with a path": b"filename\tsha256\n../a.bin\t" + b"ab" * 32 + b"\n",
    "with a NUL": b"filename\tsha256\na\0.bin\t" + b"ab" * 32 + b"\n",
    "with a name twice": b"filename\tsha256\n" + 2 * (b"a.bin\t" + b"ab" * 32 + b"\n"),
    "not UTF-8": b"filename\tsha256\na.bin\xff\t" + b"ab" * 32 + b"\n",
    "in UTF-16": "filename\tsha256\n".encode("utf-16"),
    "huge": b"filename\tsha256\n" + b"x" * (9 << 20),
    "long": b"filename\tsha256\n" + b"".join(b"%d\t" % n + b"ab" * 32 + b"\n" for n in range(10_001)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_an_index_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes) -> None:
    """Exit code 2, one line, and no document accepted."""
    archive(tmp_path)
    (tmp_path / "INDEX.tsv").write_bytes(content)
    done = verify(tmp_path, *ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "INDEX.tsv" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """The index lies in the archive or there is none, also where the link leads nowhere."""
    data = archive(tmp_path)
    (tmp_path / "INDEX.tsv").rename(tmp_path / "other.tsv")
    for target in ("other.tsv", "nowhere"):
        (tmp_path / "INDEX.tsv").unlink(missing_ok=True)
        (tmp_path / "INDEX.tsv").symlink_to(target)
        done = verify(tmp_path, *ROOT)
        assert (done.returncode, done.stdout) == (2, "")
    assert data


def test_names_from_an_index_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    """What is no control character can still turn text around: it is shown, not obeyed."""
    data = archive(tmp_path)
    write_index(tmp_path, line("a.bin", data), line("b\u202e[red]nib.bin", data))
    done = verify(tmp_path, *ROOT)
    assert done.returncode == 1
    assert "\u202e" not in done.stdout
    assert "[red]" in done.stdout
