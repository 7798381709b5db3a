"""The seal journal: one per manifest, for ever, whatever crashes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest_verify.auction import messages
from coattest_verify.auction.journal import (
    AlreadySealed,
    SealJournal,
    default_journal,
)
from support.auction.auctions import LOTS, manifest


def payload(auction: messages.Manifest, filler: bytes = b"a") -> bytes:
    return messages.Seal(
        auction.digest, b"d" * 32, b"i" * 48, tuple((buyer.name, filler * 48) for buyer in auction.buyers)
    ).encode()


def test_the_first_seal_is_recorded_and_the_same_again_is_fine(tmp_path: Path) -> None:
    """A retry with the very same seal is not refused: it reveals nothing new."""
    journal, auction = SealJournal(tmp_path / "state" / "seals"), manifest()
    assert journal.sealed(auction.digest) is None
    assert journal.record(auction.encode(), payload(auction)) is True
    assert journal.record(auction.encode(), payload(auction)) is False
    assert journal.sealed(auction.digest) == payload(auction)


def test_another_seal_of_the_same_manifest_is_refused_for_ever(tmp_path: Path) -> None:
    """Another bid set or decision is refused, also by a new process, and the first record stays."""
    auction = manifest()
    SealJournal(tmp_path).record(auction.encode(), payload(auction))
    for _ in range(2):
        with pytest.raises(AlreadySealed, match="new manifest"):
            SealJournal(tmp_path).record(auction.encode(), payload(auction, b"b"))
    assert SealJournal(tmp_path).sealed(auction.digest) == payload(auction)


def test_other_manifests_have_records_of_their_own(tmp_path: Path) -> None:
    """A new manifest is how a changed bid gets in."""
    journal = SealJournal(tmp_path)
    for name in ("spring", "autumn"):
        assert journal.record(manifest(name).encode(), payload(manifest(name))) is True


def test_lots_sealed_under_another_manifest_are_found(tmp_path: Path) -> None:
    """The overlap names the earlier auction and the lots they share, and nothing when there are none."""
    journal = SealJournal(tmp_path)
    journal.record(manifest().encode(), payload(manifest()))
    later = manifest("again", lots=(LOTS[1], messages.Lot("new", 0)))
    (overlap,) = journal.overlaps(later)
    assert (overlap.auction, overlap.manifest, overlap.lots) == ("spring", manifest().digest, ("lot-2",))
    assert journal.overlaps(manifest("other", lots=(messages.Lot("new", 0),))) == ()
    assert journal.overlaps(manifest()) == ()


@pytest.mark.parametrize("damage", [b"", b"\x00", b"garbage"])
def test_a_damaged_record_refuses_every_seal(tmp_path: Path, damage: bytes) -> None:
    """A record that cannot be read might have said anything: no seal is made beside it."""
    auction, journal = manifest(), SealJournal(tmp_path)
    journal.record(auction.encode(), payload(auction))
    next(tmp_path.glob("*.seal")).write_bytes(damage)
    with pytest.raises(EnvironmentFailure) as caught:
        journal.record(auction.encode(), payload(auction))
    assert caught.value.code == "journal-damaged"


def test_a_file_that_is_no_record_is_damage_and_no_crash(tmp_path: Path) -> None:
    """A seal that somebody put beside the records is named, in one error."""
    journal = SealJournal(tmp_path)
    journal.record(manifest().encode(), payload(manifest()))
    (tmp_path / "mine.seal").write_bytes(b"")
    with pytest.raises(EnvironmentFailure, match=r"mine\.seal") as caught:
        journal.overlaps(manifest("other"))
    assert caught.value.code == "journal-damaged"


def test_a_record_behind_a_link_that_leads_nowhere_is_damage(tmp_path: Path) -> None:
    """A disk that is not mounted is not an empty record."""
    auction, journal = manifest(), SealJournal(tmp_path / "seals")
    journal.record(auction.encode(), payload(auction))
    (seal,) = (tmp_path / "seals").glob("*.seal")
    seal.rename(tmp_path / "elsewhere")
    seal.symlink_to(tmp_path / "elsewhere")
    assert journal.sealed(auction.digest) == payload(auction)
    (tmp_path / "elsewhere").rename(tmp_path / "gone")
    with pytest.raises(EnvironmentFailure, match="dangling link") as caught:
        journal.record(auction.encode(), payload(auction, b"b"))
    assert caught.value.code == "journal-damaged"
    with pytest.raises(EnvironmentFailure) as caught:
        journal.sealed(auction.digest)
    assert caught.value.code == "journal-damaged"


@pytest.mark.parametrize("broken", ["directory", "lock"])
def test_a_file_system_that_promises_less_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Where a directory cannot be synced, or nothing locked, no record counts as made."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if broken == "lock":
        monkeypatch.setattr(fcntl, "flock", flock)
    else:
        monkeypatch.setattr(os, "fsync", fsync)
    auction = manifest()
    with pytest.raises(EnvironmentFailure, match="nothing was signed") as caught:
        SealJournal(tmp_path / "seals").record(auction.encode(), payload(auction))
    assert caught.value.code == "journal-unsafe"
    monkeypatch.undo()
    assert SealJournal(tmp_path / "seals").record(auction.encode(), payload(auction))


def test_many_manifests_with_the_same_lots_share_their_names(tmp_path: Path) -> None:
    """However many earlier seals name a lot, its id is in memory once."""
    journal = SealJournal(tmp_path)
    for name in ("spring", "autumn"):
        journal.record(manifest(name).encode(), payload(manifest(name)))
    first, second = journal.overlaps(manifest("again"))
    assert first.lots == second.lots == ("lot-1", "lot-2", "lot-3")
    assert all(one is other for one, other in zip(first.lots, second.lots, strict=True))


def test_the_default_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """COATTEST_STATE wins, then XDG_DATA_HOME, then the home directory."""
    monkeypatch.setenv("COATTEST_STATE", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    assert default_journal() == tmp_path / "c" / "seals"
    monkeypatch.delenv("COATTEST_STATE")
    assert default_journal() == tmp_path / "x" / "coattest" / "seals"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_journal() == tmp_path / ".local" / "share" / "coattest" / "seals"


@pytest.mark.slow
def test_killed_anywhere_nobody_ever_signs_twice(tmp_path: Path) -> None:
    """Killed at any call, power lost or not: one buyer never signs two seals of a manifest, and can go on."""
    # In memory, where there is such a place: what is not synced is lost by the schedule, not by the disk.
    memory = Path("/dev/shm")
    scratch = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "support.auction.journal_killer", scratch],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    shutil.rmtree(scratch)
    schedules = [json.loads(line) for line in done.stdout.splitlines()]
    seen = set()
    for schedule in schedules:
        ends = schedule["ends"]
        fillers = ("a", schedule["second"], "b", "a")
        signed = {filler for filler, end in zip(fillers, ends, strict=True) if end == "signed"}
        assert len(signed) == 1, schedule
        assert set(ends) <= {"killed", "signed", "refused"}, schedule
        seen.add((schedule["power"], *ends))
    assert max(schedule["last"] for schedule in schedules) > 20
    for power in ("never", "after the first", "after the second"):
        assert {end for way, *ends in seen if way == power for end in ends} == {"killed", "signed", "refused"}


def test_two_processes_cannot_seal_differently(tmp_path: Path) -> None:
    """Of many processes that record different seals at once, one wins and all others are refused."""
    auction = manifest()
    (tmp_path / "m").write_bytes(auction.encode())
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from coattest_verify.auction.journal import AlreadySealed, SealJournal
        sys.stdin.read(1)
        manifest, payload = (Path(name).read_bytes() for name in sys.argv[2:])
        try:
            SealJournal(Path(sys.argv[1])).record(manifest, payload)
        except AlreadySealed:
            sys.exit(1)
        """
    )
    running = []
    for number in range(4):
        (tmp_path / f"p{number}").write_bytes(payload(auction, bytes([number])))
        arguments = [str(tmp_path / "seals"), str(tmp_path / "m"), str(tmp_path / f"p{number}")]
        running.append(subprocess.Popen([sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE))
    for process in running:
        assert process.stdin
        process.stdin.close()
    codes = [process.wait(60) for process in running]
    assert sorted(codes) == [0, 1, 1, 1]
    assert SealJournal(tmp_path / "seals").sealed(auction.digest) == payload(auction, bytes([codes.index(0)]))
