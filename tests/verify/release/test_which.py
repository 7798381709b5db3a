"""``verify release which``: the release that an image, a document or a measurements file belongs to."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import CoattestError, FoundFalse, UsageError
from coattest.files import Folder
from coattest.strictjson import MAX_SIZE
from coattest_build.formats.eif import write_image
from coattest_build.formats.measure import measure
from coattest_verify.attestation import NotVerified, parse_unverified
from coattest_verify.cli.release.which import which_command
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from support.raises import raises_code
from support.shared_cases import shared_folder
from support.verify.logs import sign_log_as
from support.verify.members import NOW, Members, profile_json, report_json

HOUR = timedelta(hours=1)


def present() -> datetime:
    """The commands judge at this machine's time, so what is signed here is signed at it."""
    return datetime.now(timezone.utc)


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command remembers, apart for each test."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Release 0.1.0, on which all three agree."""
    made = Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"], threshold=2)
    agreed(made, report_json())
    return made


def agreed(quorum: Members, report: dict[str, Any]) -> None:
    """Everybody agrees with the claim of a report."""
    quorum.claim(report)
    for name in ("buyer-1", "buyer-2", "buyer-3"):
        sign(quorum, name, report)


def sign(quorum: Members, name: str, report: dict[str, Any], **options: Any) -> None:
    """Sign a statement an hour before this machine's time."""
    quorum.sign(name, report, age=NOW - present() + HOUR, **options)


def revoke(quorum: Members, name: str = "buyer-1") -> None:
    """Revoke the release that was claimed last."""
    assert quorum.claimed is not None
    vote = make_vote(
        REVOKE, name, root=quorum.root, claim=quorum.claimed, note="CVE-2026-1", now=present() - HOUR
    )
    quorum.write(vote_name(vote), sign_vote(vote, quorum.signers[name]))


def which(quorum: Members, subject: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what --json prints."""
    line = [str(subject), "--attestations", str(quorum.attestations), "--root", f"sha256:{quorum.root.hex()}"]
    done = CliRunner().invoke(which_command, [*line, *words, "--json"], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, json.loads(done.stdout)


def measurements(quorum: Members, profile: str = "aws", **changes: str) -> Path:
    """The registers of the release that was claimed last, as nitro-cli prints them."""
    assert quorum.claimed is not None
    pcrs = {f"PCR{index}": value for index, value in enumerate(quorum.claimed.profiles[profile].pcrs)}
    path = quorum.folder / "measured.json"
    path.write_text(json.dumps({"Measurements": {"HashAlgorithm": "Sha384 { ... }", **pcrs, **changes}}))
    return path


def only(found: dict[str, Any]) -> dict[str, Any]:
    """The one set of a file."""
    (each,) = found["sets"]
    return dict(each)


def answers(found: dict[str, Any]) -> dict[str, str]:
    """Each release that has the one set, with its answer."""
    return {each["release"]: each["answer"] for each in only(found)["releases"]}


def test_the_release_is_found_among_several(quorum: Members) -> None:
    """Each release's measurements lead to it, decided or pending, and never to another."""
    running = measurements(quorum).rename(quorum.folder / "running.json")
    quorum.claim(report_json("next", release="0.2.0", source="next"))
    code, found = which(quorum, running)
    assert (code, answers(found)) == (0, {"0.1.0": "decided"})
    assert only(found)["releases"][0]["decision"]["release"] == "0.1.0"
    code, found = which(quorum, measurements(quorum))
    assert (code, answers(found)) == (3, {"0.2.0": "pending"})
    assert {reason["code"] for reason in only(found)["releases"][0]["reasons"]} >= {"too-few-members"}


def test_a_revoked_release_is_found_and_not_to_be_trusted(quorum: Members) -> None:
    """Exit code 1 with the word, though everybody agreed."""
    revoke(quorum)
    code, found = which(quorum, measurements(quorum))
    assert (code, only(found)["answer"], answers(found)) == (1, "revoked", {"0.1.0": "revoked"})


def test_the_same_bytes_under_another_name_stay_revoked(quorum: Members) -> None:
    """Members revoke one source; its bytes are not made good by a second release that has them."""
    revoke(quorum)
    agreed(quorum, report_json(release="0.1.1", source="same bytes"))
    code, found = which(quorum, measurements(quorum))
    assert (code, only(found)["answer"]) == (1, "revoked")
    assert answers(found) == {"0.1.0": "revoked", "0.1.1": "decided"}


def test_a_claim_that_nobody_signed_takes_nothing_from_a_decision(quorum: Members) -> None:
    """Who hosts the folder can copy a claim under another name, and the release stays decided."""
    quorum.claim(report_json(release="9.9.9", source="the host's"))
    code, found = which(quorum, measurements(quorum))
    assert (code, only(found)["answer"]) == (0, "decided")
    assert answers(found) == {"0.1.0": "decided", "9.9.9": "pending"}


def test_each_file_is_read_once_for_all_releases(quorum: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand claims of the same bytes, with thirty files each, were read a thousand times: for hours."""
    subject, claim = measurements(quorum), json.loads((quorum.released / "claim.json").read_bytes())
    for number in range(10):
        folder = quorum.attestations / "releases" / f"r{number}"
        folder.mkdir()
        (folder / "claim.json").write_text(json.dumps(claim | {"release": folder.name}))
        (folder / "revoke.buyer-1.x.dsse.json").write_text("{}")
    reads: list[str] = []
    read = Folder.read

    def counted(self: Folder, name: str, limit: int = MAX_SIZE) -> bytes:
        reads.append(name)
        return read(self, name, limit)

    monkeypatch.setattr(Folder, "read", counted)
    code, found = which(quorum, subject)
    assert (code, len(answers(found))) == (0, 11)
    assert sorted(set(reads)) == sorted(reads)


def test_a_dissent_is_refused(quorum: Members) -> None:
    """A member that got other bytes blocks, and the answer is exit code 1."""
    (quorum.released / "rebuild.buyer-3.intoto.json").unlink()
    sign(quorum, "buyer-3", report_json("other"), outcome="dissent", reason="other bytes")
    code, found = which(quorum, measurements(quorum))
    assert (code, answers(found)) == (1, {"0.1.0": "refused"})
    assert "dissent" in {reason["code"] for reason in only(found)["releases"][0]["reasons"]}


def test_no_release_has_it(quorum: Members) -> None:
    """The word is unknown, with exit code 1: one register that differs is another image."""
    code, found = which(quorum, measurements(quorum, PCR2="ab" * 48))
    assert (code, only(found)["answer"], only(found)["releases"]) == (1, "unknown", [])
    assert [finding["code"] for finding in only(found)["findings"]] == ["unknown-release"]


def test_unknown_is_not_said_for_sure_while_a_claim_cannot_be_read(quorum: Members) -> None:
    """Exit code 3, and which claim it is; what is found all the same is not touched by it."""
    good = measurements(quorum).rename(quorum.folder / "good.json")
    bad = quorum.attestations / "releases/0.0.9"
    bad.mkdir()
    (bad / "claim.json").write_text("{}")
    code, found = which(quorum, measurements(quorum, PCR0="ab" * 48))
    assert (code, only(found)["answer"]) == (3, "unknown")
    assert [(each["code"], each["where"]) for each in only(found)["findings"]][1:] == [
        ("bad-claim", "releases/0.0.9/claim.json")
    ]
    assert which(quorum, good)[0] == 0


def test_another_profile_is_another_answer(quorum: Members) -> None:
    """The simulator's image is not AWS's: it is found when its profile is named, and told otherwise."""
    subject = measurements(quorum, "local")
    code, found = which(quorum, subject)
    assert (code, only(found)["answer"]) == (1, "unknown")
    assert "release 0.1.0 has them under profile local" in only(found)["findings"][0]["detail"]
    assert which(quorum, subject, "--profile", "local")[0] == 0


def test_each_set_of_a_file_has_its_answer(quorum: Members) -> None:
    """describe-enclaves lists several enclaves; the worst answer is the exit code, --set takes one."""
    assert quorum.claimed is not None
    pcrs = {f"PCR{index}": value for index, value in enumerate(quorum.claimed.profiles["aws"].pcrs)}
    enclaves = [
        {"EnclaveName": "good", "Measurements": pcrs},
        {"EnclaveName": "odd", "Measurements": {**pcrs, "PCR0": "cd" * 48}},
    ]
    path = quorum.folder / "enclaves.json"
    path.write_text(json.dumps(enclaves))
    code, found = which(quorum, path)
    assert code == 1
    assert [(each["name"], each["answer"]) for each in found["sets"]] == [
        ("good", "decided"),
        ("odd", "unknown"),
    ]
    assert which(quorum, path, "--set", "good")[0] == 0
    with raises_code(UsageError, "bad-file"):
        which(quorum, path, "--set", "third")


def test_measurements_that_name_no_release_are_refused(quorum: Members) -> None:
    """PCR0, or PCR1 and PCR2: every image of one kernel has the same PCR1."""
    assert quorum.claimed is not None
    pcrs = quorum.claimed.profiles["aws"].pcrs
    path = quorum.folder / "few.json"
    path.write_text(json.dumps({"PCR1": pcrs[1]}))
    with raises_code(UsageError, "bad-expectation"):
        which(quorum, path)
    path.write_text(json.dumps({"PCR1": pcrs[1], "PCR2": pcrs[2]}))
    assert which(quorum, path)[0] == 0


def image(folder: Path, app: bytes) -> Path:
    """A small real image."""
    for name, content in (("kernel", b"kernel" * 50), ("boot", b"boot" * 50), ("app", app * 50)):
        (folder / name).write_bytes(content)
    write_image(
        folder / "image.eif",
        kernel=folder / "kernel",
        cmdline=b"console=ttyS0",
        metadata=b"{}",
        ramdisks=[folder / "boot", folder / "app"],
    )
    return folder / "image.eif"


def test_an_image_is_measured(quorum: Members) -> None:
    """Its registers lead to the release, and whether it is the released file is said apart."""
    path = image(quorum.folder, b"ours")
    found = measure(path)
    profile = profile_json("ours")
    profile["pcrs"] = {"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2}
    profile["image"] |= {"size": found.size, "sha256": found.sha256, "sha384": found.sha384}
    agreed(quorum, report_json(release="0.3.0", source="image", profiles={"aws": profile}))
    code, said = which(quorum, path)
    assert (code, answers(said), only(said)["kind"]) == (0, {"0.3.0": "decided"}, "image")
    assert only(said)["releases"][0]["same_file"] is True
    # The metadata section is in no register.
    other = image(quorum.folder, b"ours")
    data = bytearray(path.read_bytes())
    data[data.index(b"console=ttyS0")] ^= 1
    other.write_bytes(data)
    with raises_code(FoundFalse, "eif-crc"):
        which(quorum, other)
    assert which(quorum, image(quorum.folder, b"theirs"))[0] == 1


def test_a_document_is_verified_first(quorum: Members) -> None:
    """A real document leads to the release with its registers; today it is too old to say anything."""
    vectors = shared_folder("vectors") / "attestation"
    path = next(path for path in sorted(vectors.glob("*.bin")) if "_debug_" not in path.name)
    pcrs = parse_unverified(path.read_bytes()).pcrs
    profile = profile_json("real")
    profile["pcrs"] = {f"PCR{index}": pcrs[index].hex() for index in range(3)}
    with pytest.raises(NotVerified):
        which(quorum, path)
    code, said = which(quorum, path, "--at", "document")
    assert (code, only(said)["answer"]) == (1, "unknown")
    agreed(quorum, report_json(release="0.4.0", source="real", profiles={"aws": profile}))
    code, said = which(quorum, path, "--at", "document")
    assert (code, answers(said), only(said)["kind"]) == (0, {"0.4.0": "decided"}, "document")
    assert "says nothing about today" in only(said)["notes"][0]
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    (quorum.folder / "forged.bin").write_bytes(changed)
    with pytest.raises(CoattestError):
        which(quorum, quorum.folder / "forged.bin", "--at", "document")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfeh\0i\0", b'{"a": 1}', b".eif" + bytes(600)])
def test_anything_else_is_a_usage_error(quorum: Members, content: bytes) -> None:
    """One line says what is read."""
    path = quorum.folder / "odd"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        which(quorum, path)


def test_options_that_say_nothing_are_refused(quorum: Members) -> None:
    """--at is about a document, --set about measurements."""
    with pytest.raises(UsageError, match="--at is for"):
        which(quorum, measurements(quorum), "--at", "document")
    with pytest.raises(UsageError, match="--set is for"):
        which(quorum, image(quorum.folder, b"x"), "--set", "good")


def test_a_folder_without_a_claim_answers_nothing(quorum: Members) -> None:
    """Nothing was looked at, so nothing is unknown."""
    subject = measurements(quorum)
    (quorum.released / "claim.json").unlink()
    with raises_code(UsageError, "no-release"):
        which(quorum, subject)


def test_a_shorter_log_than_one_that_was_seen_is_no_answer_from_memory(quorum: Members) -> None:
    """The decision behind the answer is the one of verify quorum: with its memory of the log."""
    for name in ("buyer-1", "buyer-2"):
        sign_log_as(quorum, name, now=present())
    assert which(quorum, measurements(quorum))[0] == 0
    (quorum.attestations / "log/checkpoint").unlink()
    code, found = which(quorum, measurements(quorum))
    assert (code, answers(found)) == (3, {"0.1.0": "pending"})


def test_a_person_sees_whole_registers_and_every_reason(quorum: Members) -> None:
    """The registers are on stdout, whole; why a release is not to be trusted is on stderr."""
    revoke(quorum)
    subject = measurements(quorum)
    line = [str(subject), "--attestations", str(quorum.attestations), "--root", f"sha256:{quorum.root.hex()}"]
    done = CliRunner().invoke(which_command, line, standalone_mode=False)
    assert quorum.claimed is not None
    for value in quorum.claimed.profiles["aws"].pcrs:
        assert value in done.stdout
    assert "revoked       release 0.1.0" in done.stdout
    assert "release 0.1.0 is revoked: buyer-1: revoked this release: CVE-2026-1 [revoked]" in done.stderr
