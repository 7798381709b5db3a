"""One signature in one place: what a member signed is remembered, what others signed is not overwritten."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest_verify.signatures.journal import SignatureJournal
from support.raises import raises_code
from support.verify.members import EXPIRES, Members, report_json
from support.verify.signing_world import SigningWorld


@pytest.fixture
def world(tmp_path: Path) -> SigningWorld:
    found = SigningWorld(tmp_path)
    found.built()
    return found


def two_proposals(world: SigningWorld) -> tuple[str, str]:
    """What everybody talked about, and what the host wants; the second lies in the folder."""
    file = world.quorum.file
    first = world.propose(file.successor(expires=EXPIRES + timedelta(days=365)))
    done = world.desk.run("members", "countersign", *world.who("buyer-2"), "--expect", first)
    assert done.returncode == 0, done.stderr
    return first, world.propose(file.successor(threshold=1))


def test_a_second_proposal_of_one_number_is_not_signed(world: SigningWorld) -> None:
    """countersign_two.py, even expected by its digest: two signatures could complete two versions 2."""
    first, second = two_proposals(world)
    before = world.files()
    done = world.desk.run("members", "countersign", *world.who("buyer-2"), "--expect", second, "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "already-signed")
    assert first in done.stderr
    assert world.files() == before
    world.propose(world.quorum.file.successor(expires=EXPIRES + timedelta(days=365)))
    again = world.desk.run("members", "countersign", *world.who("buyer-2"), "--expect", first)
    assert again.returncode == 0, again.stderr


def test_a_lost_journal_adopts_the_published_signature(world: SigningWorld) -> None:
    """A new machine finds the member's own signature in the folder, and refuses as the old one did."""
    _, second = two_proposals(world)
    shutil.rmtree(world.desk.folder / "state")
    for _ in range(2):
        done = world.desk.run("members", "countersign", *world.who("buyer-2"), "--expect", second, "--json")
        assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "already-signed")
        # Adopted: the journal knows it now, whatever the host removes.
        (world.attestations / "quorum.2.buyer-2.dsse.json").unlink(missing_ok=True)


def test_a_signature_in_anothers_name_is_not_adopted(world: SigningWorld) -> None:
    """A file that poses as the member's signature keeps nobody from signing."""
    file = world.quorum.file
    forged = file.successor(threshold=1)
    world.quorum.signers["buyer-2"], kept = world.quorum.signers["buyer-1"], world.quorum.signers["buyer-2"]
    world.quorum.countersign(forged, "buyer-2")
    world.quorum.signers["buyer-2"] = kept
    wanted = world.propose(file.successor(expires=EXPIRES + timedelta(days=365)))
    done = world.desk.run("members", "countersign", *world.who("buyer-2"), "--expect", wanted)
    assert done.returncode == 0, done.stderr


def test_a_signature_is_given_up_only_by_its_digest(world: SigningWorld) -> None:
    """A mistake does not lock a quorum up: its signer names what it gives up, and nothing else serves."""
    first, second = two_proposals(world)
    argv = ("members", "countersign", *world.who("buyer-2"), "--expect", second)
    for wrong in (second, f"sha256:{'0' * 64}"):
        done = world.desk.run(*argv, "--instead-of", wrong)
        assert (done.returncode, "was signed before" in done.stderr) == (1, True)
    done = world.desk.run(*argv, "--instead-of", first)
    assert done.returncode == 0, done.stderr
    assert world.desk.run(*argv).returncode == 0


def test_a_rival_signature_is_shown_to_who_signs(world: SigningWorld) -> None:
    """buyer-3 is told that buyer-2 signed another version 2 than the one that it is shown."""
    first, second = two_proposals(world)
    done = world.desk.run("members", "countersign", *world.who("buyer-3"), "--expect", second)
    assert done.returncode == 0, done.stderr
    assert f"buyer-2 signed a different version 2: {first}" in done.stderr


@pytest.mark.parametrize("shown", ["as it was", "removed", "swapped"])
def test_a_proposal_that_others_signed_is_not_overwritten(world: SigningWorld, shown: str) -> None:
    """repro.sh, part 3: neither the file nor a later proposal replaces what buyer-2 signed."""
    first, _ = two_proposals(world)
    path = world.attestations / "quorum.next.toml"
    if shown == "as it was":
        world.propose(world.quorum.file.successor(expires=EXPIRES + timedelta(days=365)))
    elif shown == "removed":
        path.unlink()
    before = world.files()
    enroll = ("members", "enroll", "--attestations", str(world.attestations))
    done = world.desk.run(*enroll, "--threshold", "1", "--dissent", "report", "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "exists")
    assert first in done.stderr
    assert world.files() == before


def test_a_proposal_that_only_a_new_member_signed_is_not_overwritten(world: SigningWorld) -> None:
    """The member that joins may be the first to sign."""
    assert world.desk.run("keygen", "--out", "new").returncode == 0
    enroll = ("members", "enroll", "--attestations", str(world.attestations))
    proposed = json.loads(world.desk.run(*enroll, "--member", "buyer-4=new.pub", "--json").stdout)
    where = ("--attestations", str(world.attestations))
    argv = ("members", "countersign", "--key", "new", "--member", "buyer-4", *where)
    done = world.desk.run(*argv, "--expect", f"sha256:{proposed['sha256']}")
    assert done.returncode == 0, done.stderr
    assert world.desk.run(*enroll, "--threshold", "3").returncode == 1


def test_a_proposal_that_nobody_signed_may_be_replaced(world: SigningWorld) -> None:
    """Until then it is a draft; the same proposal again is always fine."""
    enroll = ("members", "enroll", "--attestations", str(world.attestations))
    for words in (("--threshold", "3"), ("--round", "2"), ("--round", "2")):
        done = world.desk.run(*enroll, *words)
        assert done.returncode == 0, done.stderr


def test_signatures_that_meet_by_a_merge_put_a_version_in_force(world: SigningWorld) -> None:
    """repro.sh, part 2: two members sign in their own clones, and version 2 is in force for everybody."""
    second = world.quorum.file.successor(round="2")
    for name in ("buyer-1", "buyer-2"):
        world.quorum.countersign(second, name)
    report = world.desk.folder / "out" / "rebuild.json"
    for name in ("buyer-1", "buyer-2"):
        done = world.desk.run(
            "sign-pcrs", *world.who(name), "--report", str(report), "--expect", world.claimed
        )
        assert done.returncode == 0, done.stderr
    where = ("--attestations", str(world.attestations))
    done = world.desk.run("quorum", *where, *world.root, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["quorum"]["version"]) == (0, 2), done.stderr
    assert (world.attestations / "quorum.toml").read_bytes() == world.quorum.file.raw
    # Whoever countersigns next installs it, and cannot install anything else.
    done = world.desk.run(
        "members", "countersign", *world.who("buyer-3"), "--expect", f"sha256:{second.sha256}"
    )
    assert done.returncode == 0, done.stderr
    assert (world.attestations / "quorum.toml").read_bytes() == second.raw


def test_a_release_has_one_result_of_a_member_in_a_round(world: SigningWorld) -> None:
    """Another source under the release's name is not signed, even when the host hid the first statement."""
    argv = ("sign-pcrs", *world.who("buyer-1"), "--expect")
    assert world.desk.run(*argv, world.claimed).returncode == 0
    (world.released / "rebuild.buyer-1.intoto.json").unlink()
    world.built("other", b"evil")
    before = world.files()
    done = world.desk.run(*argv, world.claimed, "--rebuild", "other", "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "already-signed")
    assert world.files() == before
    world.built("out")
    done = world.desk.run(*argv, world.claimed)
    assert done.returncode == 0, done.stderr


def test_a_lost_journal_adopts_the_published_result(world: SigningWorld) -> None:
    """The statement in the folder stands in for the journal, and gets into it."""
    argv = ("sign-pcrs", *world.who("buyer-1"), "--expect")
    assert world.desk.run(*argv, world.claimed).returncode == 0
    shutil.rmtree(world.desk.folder / "state" / "signed")
    # The same again is fine, and adopts.
    assert world.desk.run(*argv, world.claimed).returncode == 0
    (world.released / "rebuild.buyer-1.intoto.json").unlink()
    world.built("other", b"evil")
    done = world.desk.run(*argv, world.claimed, "--rebuild", "other", "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "already-signed")


def test_one_size_of_the_log_has_one_cosigned_head(world: SigningWorld) -> None:
    """A member whose memory is gone does not cosign another head of a size that it cosigned."""
    append = ("log", "append", "--attestations", str(world.attestations), *world.root)
    cosign = ("log", "cosign", *world.who("buyer-3"), *world.root)
    for name in ("buyer-1", "buyer-2"):
        world.quorum.sign(name, world.report)
    assert world.desk.run(*append).returncode == 0
    done = world.desk.run(*cosign, "--json")
    size = json.loads(done.stdout)["size"]
    shutil.rmtree(world.attestations / "log")
    shutil.rmtree(world.desk.folder / "config", ignore_errors=True)
    for name in ("buyer-1", "buyer-2"):
        world.quorum.sign(name, world.report, age=timedelta(hours=3))
    assert world.desk.run(*append).returncode == 0
    done = world.desk.run(*cosign, "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "already-signed")
    assert f"size {size}" in done.stderr
    assert not list((world.attestations / "log").glob("cosignature.*"))


def test_the_journal_survives_its_process_and_never_guesses(tmp_path: Path) -> None:
    """The same again is fine in a new process; other content, a damaged record or another's record is not."""
    slot, other = {"kind": "log", "size": 1}, {"kind": "log", "size": 2}
    SignatureJournal(tmp_path).record(slot, "a" * 64, remedy="ask")
    SignatureJournal(tmp_path).record(slot, "a" * 64, remedy="ask")
    with raises_code(FoundFalse, "already-signed"):
        SignatureJournal(tmp_path).record(slot, "b" * 64, remedy="ask")
    (path,) = tmp_path.glob("*.json")
    kept = path.read_bytes()
    SignatureJournal(tmp_path).record(other, "b" * 64, remedy="ask")
    (second,) = set(tmp_path.glob("*.json")) - {path}
    for damage in (b"", b"{}", kept.replace(b"a" * 64, b"a" * 63), second.read_bytes()):
        path.write_bytes(damage)
        with raises_code(EnvironmentFailure, "journal-damaged"):
            SignatureJournal(tmp_path).record(slot, "a" * 64, remedy="ask")
    path.write_bytes(kept)
    with raises_code(FoundFalse, "already-signed"):
        SignatureJournal(tmp_path).record(slot, "b" * 64, remedy="ask", adopted="b" * 64)
    with raises_code(FoundFalse, "already-signed"):
        SignatureJournal(tmp_path / "lost").record(slot, "b" * 64, remedy="ask", adopted="a" * 64)


def test_a_fresh_quorum_with_the_same_names_is_not_confused(tmp_path: Path) -> None:
    """Slots name the members file by digest: another quorum's version 1 or release is another place."""
    one, two = SigningWorld(tmp_path / "one"), SigningWorld(tmp_path / "two")
    two.desk = one.desk
    for world in (one, two):
        assert isinstance(world.quorum, Members)
        world.report = one.desk.images(f"out-{world.folder.name}", world.folder.name.encode())
        world.quorum.claim(world.report)
        argv = ("sign-pcrs", *world.who("buyer-1"), "--rebuild", f"out-{world.folder.name}")
        done = world.desk.run(*argv, "--expect", world.claimed)
        assert done.returncode == 0, done.stderr
    assert report_json()["release"] == one.report["release"] == two.report["release"]
