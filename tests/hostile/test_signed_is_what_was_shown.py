"""A signing command reads its input once, shows it, and signs those bytes after a yes, and no others.

The host of attestations/ has no key. It can show anything at any time, and swap it while a member reads.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest_build.ownwork import BUILT, COMPARED, sha256_hex
from coattest_verify.quorum.members.file import Member
from coattest_verify.rebuild.claimed_source import inspect_source
from coattest_verify.signatures import keys
from support.verify.members import EXPIRES, report_json
from support.verify.signing_world import SigningWorld

REPOSITORY = Path(__file__).parents[2]
OTHER = f"sha256:{'0' * 64}"


@pytest.fixture
def world(tmp_path: Path) -> SigningWorld:
    found = SigningWorld(tmp_path)
    found.built()
    return found


def evil(world: SigningWorld) -> Any:
    """What the host wants signed: its own member, and one is enough."""
    key = keys.load_public(world.folder / "evil.pub") if (world.folder / "evil.pub").exists() else None
    key = key or keys.generate_key(world.folder / "evil")
    members = (*world.quorum.file.members, Member("mallory", (key,)))
    return world.quorum.file.successor(threshold=1, members=members)


def countersign(world: SigningWorld) -> tuple[tuple[str, ...], str]:
    digest = world.propose(world.quorum.file.successor(expires=EXPIRES + timedelta(days=365)))
    return ("members", "countersign", *world.who("buyer-2")), digest


def sign_pcrs(world: SigningWorld) -> tuple[tuple[str, ...], str]:
    return ("sign-pcrs", *world.who("buyer-2")), world.claimed


def could_not_build(world: SigningWorld) -> tuple[tuple[str, ...], str]:
    words = ("--could-not-build", "--reason", "no compiler")
    return ("sign-pcrs", *world.who("buyer-2"), *words), world.claimed


def commit(world: SigningWorld) -> tuple[tuple[str, ...], str]:
    report = world.desk.folder / "out" / "rebuild.json"
    words = ("commit", *world.who("buyer-2"), "--report", str(report), *world.root)
    return words, f"sha256:{sha256_hex(report.read_bytes())}"


def revoke(world: SigningWorld) -> tuple[tuple[str, ...], str]:
    return ("release", "revoke", *world.who("buyer-2"), "--reason", "CVE-1", *world.root), world.claimed


def review(world: SigningWorld) -> tuple[tuple[str, ...], str]:
    snapshot = inspect_source(REPOSITORY)
    world.report["source"].update(tree_sha256=snapshot.tree_sha256, lock_sha256=snapshot.lock_sha256)
    world.quorum.claim(world.report)
    where = ("--source", str(REPOSITORY), "--this-checkout-is-mine")
    words = ("release", "review", "--release", "0.1.0", *where, *world.who("buyer-2"), *world.root)
    return words, world.claimed


Command = Callable[[SigningWorld], tuple[tuple[str, ...], str]]
COMMANDS: tuple[Command, ...] = (countersign, sign_pcrs, could_not_build, commit, revoke, review)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_terminal_only_what_expect_names_is_signed(world: SigningWorld, command: Command) -> None:
    """Neither silence nor the digest of something else is a yes; the right digest signs exactly once."""
    argv, digest = command(world)
    before = world.files()
    asked = world.desk.run(*argv, "--json")
    assert (asked.returncode, json.loads(asked.stdout)["code"]) == (2, "not-confirmed")
    assert digest in asked.stderr
    other = world.desk.run(*argv, "--expect", OTHER, "--json")
    found = json.loads(other.stdout)
    assert (other.returncode, found["code"]) == (1, "not-expected")
    assert found["findings"][0]["found"] == digest.removeprefix("sha256:")
    bad = world.desk.run(*argv, "--expect", digest.upper(), "--json")
    assert (bad.returncode, json.loads(bad.stdout)["code"]) == (2, "bad-expect")
    assert world.files() == before
    done = world.desk.run(*argv, "--expect", digest)
    assert done.returncode == 0, done.stderr
    assert set(world.files()) > set(before)


@pytest.mark.parametrize("command", [countersign, sign_pcrs, revoke])
def test_on_a_terminal_a_no_signs_nothing(world: SigningWorld, command: Command) -> None:
    """It is asked, and anything but a yes is a no."""
    argv, digest = command(world)
    before = world.files()
    code, shown = world.desk.answer("n", *argv)
    assert (code, world.files()) == (3, before)
    assert digest in shown
    assert "the answer was no" in shown


def test_a_proposal_swapped_during_the_question_is_not_signed(world: SigningWorld) -> None:
    """The signature carries the bytes that were shown; the swapped file is neither signed nor installed."""
    argv, digest = countersign(world)
    shown_bytes = (world.attestations / "quorum.next.toml").read_bytes()
    code, shown = world.desk.answer("y", *argv, meanwhile=lambda: world.propose(evil(world)))
    assert code == 0, shown
    assert digest in shown
    assert "mallory" not in shown
    assert world.signed("quorum.2.buyer-2.dsse.json") == shown_bytes
    assert (world.attestations / "quorum.toml").read_bytes() == world.quorum.file.raw


@pytest.mark.parametrize("command", [revoke, review])
def test_a_claim_swapped_during_the_question_is_not_voted_on(world: SigningWorld, command: Command) -> None:
    """The vote is about the source that was shown, whatever the claim has become."""
    argv, digest = command(world)
    swapped = report_json("evil", source="evil")
    code, shown = world.desk.answer("y", *argv, meanwhile=lambda: world.publish(swapped))
    assert code == 0, shown
    assert digest in shown
    assert world.signed("re*.dsse.json")["source"] == {
        name: world.report["source"][name] for name in ("tree_sha256", "lock_sha256")
    }


@pytest.mark.parametrize("command", [sign_pcrs, could_not_build])
def test_a_claim_swapped_during_the_question_is_not_answered(world: SigningWorld, command: Command) -> None:
    """The statement answers the claim that was shown."""
    argv, digest = command(world)
    swapped = report_json("evil", source="evil")
    code, shown = world.desk.answer("y", *argv, meanwhile=lambda: world.publish(swapped))
    assert code == 0, shown
    assert digest in shown
    parameters = world.signed("rebuild.buyer-2.*json")["predicate"]["buildDefinition"]["internalParameters"]
    assert parameters["claim_sha256"] == digest.removeprefix("sha256:")


def test_a_claim_swapped_while_the_passphrase_is_read_is_not_signed(world: SigningWorld) -> None:
    """The passphrase comes through a FIFO that the host's timing controls (shared/cases: review_race)."""
    (world.folder / "pw").write_text("secret\n")
    key = world.folder / "locked"
    public = keys.generate_key(key, passphrase=b"secret")
    joined = world.quorum.file.successor(members=(*world.quorum.file.members, Member("buyer-4", (public,))))
    world.quorum.install(joined, ["buyer-1", "buyer-2", "buyer-3"])
    claimed, tree = world.claimed, world.report["source"]["tree_sha256"]
    fifo = world.folder / "fifo"
    os.mkfifo(fifo)

    def swap() -> None:
        with fifo.open("w") as opened:
            world.publish(report_json("evil", source="evil"))
            opened.write("secret\n")

    host = threading.Thread(target=swap)
    host.start()
    done = world.desk.run(
        "release", "revoke", "--key", str(key), "--member", "buyer-4", "--passphrase-file", str(fifo),
        "--attestations", str(world.attestations), *world.root, "--reason", "CVE-1", "--expect", claimed,
    )  # fmt: skip
    host.join()
    assert done.returncode == 0, done.stderr
    assert world.signed("revoke.*")["source"]["tree_sha256"] == tree


def test_the_own_rebuild_is_the_yes_for_the_claim_it_was_compared_with_only(world: SigningWorld) -> None:
    """Without a terminal, verify rebuild's record is the yes for the claim that it saw, and no other."""
    report = world.desk.folder / "out" / "rebuild.json"
    world.desk.own_work.note(COMPARED, sha256_hex(report.read_bytes()), world.claimed.removeprefix("sha256:"))
    argv, _ = sign_pcrs(world)
    genuine = dict(world.report)
    world.publish({**genuine, "profiles": {"aws": genuine["profiles"]["aws"]}})
    asked = world.desk.run(*argv, "--dissent", "--reason", "x", "--json")
    assert (asked.returncode, json.loads(asked.stdout)["code"]) == (2, "not-confirmed")
    world.publish(genuine)
    done = world.desk.run(*argv)
    assert done.returncode == 0, done.stderr


def test_revoking_shows_the_release_its_image_and_who_agreed(world: SigningWorld) -> None:
    """Before the yes: name, source, registers, and each member that agreed, with its date."""
    for name in ("buyer-1", "buyer-3"):
        world.quorum.sign(name, world.report)
    code, shown = world.desk.answer("n", *revoke(world)[0])
    assert code == 3
    for text in (
        "REVOKES",
        "0.1.0 for x86_64",
        world.report["source"]["tree_sha256"],
        world.report["profiles"]["aws"]["pcrs"]["PCR0"],
        "buyer-1 at 2026-11-23T11:00:00Z",
        "buyer-3 at 2026-11-23T11:00:00Z",
    ):
        assert text in shown
    other = world.desk.run(*revoke(world)[0], "--release", "0.2.0", "--expect", world.claimed, "--json")
    assert (other.returncode, json.loads(other.stdout)["code"]) == (2, "bad-claim")


def test_countersigning_shows_what_the_version_changes(world: SigningWorld) -> None:
    """The threshold that falls and the member that joins are named, line by line."""
    world.propose(evil(world))
    code, shown = world.desk.answer("n", "members", "countersign", *world.who("buyer-1"))
    assert code == 3
    assert "agreement: 2 of 3 members" in shown
    assert "agreement: 1 of 4 members" in shown
    assert "member mallory" in shown


def test_a_report_that_is_not_the_desks_own_is_not_signed(world: SigningWorld) -> None:
    """A hosted or copied rebuild.json is refused even with the right --expect."""
    world.desk.own_work.forget(BUILT, sha256_hex((world.desk.folder / "out" / "rebuild.json").read_bytes()))
    argv, digest = sign_pcrs(world)
    before = world.files()
    done = world.desk.run(*argv, "--expect", digest, "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (2, "not-own-work")
    assert world.files() == before


def test_an_auction_key_is_certified_only_by_its_digest(world: SigningWorld) -> None:
    """A key file that somebody swapped has another digest than the one that auction keygen showed."""
    desk = world.desk
    assert desk.run("keygen", "--out", "auction.key", program="auction").returncode == 0
    digest = f"sha256:{keys.load_public(desk.folder / 'auction.key.pub').fingerprint}"
    argv = (
        "certify", "--key", str(world.quorum.key("buyer-2")), "--member", "buyer-2",
        "--auction-key", "auction.key.pub", "--bids", "s3://bids-of-buyer-2/auctions/",
        "--kms-key", "arn:aws:kms:eu-central-1:222233334444:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "--out", "record.json", "--json",
    )  # fmt: skip
    for more, code in (((), "not-confirmed"), (("--expect", OTHER), "not-expected")):
        done = desk.run(*argv, *more, program="auction")
        assert json.loads(done.stdout)["code"] == code
        assert not (desk.folder / "record.json").exists()
    done = desk.run(*argv, "--expect", digest, program="auction")
    assert done.returncode == 0, done.stderr
    assert (desk.folder / "record.json").exists()
