"""What verify members init and enroll do with rules that make no sense together."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.verify.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Two keys, and no members file yet."""
    desk = Desk(tmp_path)
    for name in ("one", "two"):
        desk.ok("keygen", "--out", name)
    return desk


TWO = ("--member", "buyer-1=one.pub", "--member", "buyer-2=two.pub")
NOT_POSSIBLE = (
    ("--threshold", "3"),
    ("--routes", "3"),
    ("--hosts", "3"),
    ("--reviews", "3"),
    ("--commitments", "3"),
    ("--revoke-threshold", "3"),
    ("--change", "1"),
    ("--round", ""),
    ("--member", "buyer-3=one.pub"),
    ("--group", "all=3:buyer-1,buyer-2"),
)


@pytest.mark.parametrize("wrong", NOT_POSSIBLE, ids=" ".join)
def test_the_first_version_is_not_written(desk: Desk, wrong: tuple[str, str]) -> None:
    """Options that contradict each other are a usage error, and nothing is left behind."""
    done = desk.run("members", "init", *TWO, *wrong)
    assert done.returncode == 2, done.stderr
    assert "quorum.toml: " in done.stderr
    assert "(nothing was written)" in done.stderr
    assert not (desk.folder / "attestations").exists()


@pytest.mark.parametrize("wrong", NOT_POSSIBLE, ids=" ".join)
def test_no_such_version_is_proposed(desk: Desk, wrong: tuple[str, str]) -> None:
    """The same for a later version: nobody signs one under which nothing could be decided."""
    desk.ok("members", "init", *TWO)
    done = desk.run("members", "enroll", *wrong)
    assert done.returncode == 2, done.stderr
    assert not (desk.folder / "attestations/quorum.next.toml").exists()


def test_a_member_that_the_rules_need_is_not_removed(desk: Desk) -> None:
    """As many routes as members, and then a member less."""
    desk.ok("members", "init", *TWO, "--threshold", "1", "--routes", "2")
    done = desk.run("members", "enroll", "--remove", "buyer-2")
    assert done.returncode == 2
    assert "routes: each member has one, so 1 in all never have 2" in done.stderr
    desk.ok("members", "enroll", "--remove", "buyer-2", "--routes", "1")


def test_a_proposal_that_is_replaced_is_named(desk: Desk) -> None:
    """Two proposals after each other do not add up, and the second one says so."""
    desk.ok("members", "init", *TWO)
    first = desk.json("members", "enroll", "--days", "30")["sha256"]
    assert "replaced" not in desk.run("members", "enroll", "--days", "30").stderr
    again = desk.run("members", "enroll", "--round", "2")
    assert again.returncode == 0
    assert f"replaced: the proposal sha256:{first}, which nobody signed" in again.stderr


@pytest.mark.parametrize("name", ["Buyer", "buyer 1", "b\u00fcyer", "-b", "b" * 33, "../b"])
def test_a_name_that_no_member_can_have(desk: Desk, name: str) -> None:
    """What a name may be is said in words."""
    done = desk.run("members", "init", "--member", f"{name}=one.pub")
    assert done.returncode == 2
    assert "(1 to 32 of a-z, 0-9 and -, with no - at an end)" in done.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("members", "countersign", "--instead-of"), "--instead-of"),
        (("release", "excuse", "--whom", "buyer-2", "--dissent"), "--dissent"),
        (("turn", "--expect"), "--expect"),
    ],
)
def test_a_digest_that_is_none_is_told_with_its_option(
    desk: Desk, words: tuple[str, ...], option: str
) -> None:
    """None of them is a root, and bare hex is not enough."""
    done = desk.run(*words, "ab" * 32)
    assert done.returncode == 2
    assert f"verify: {option}: '{'ab' * 32}' (sha256: and 64 lower-case hex digits)" in done.stderr


def test_a_passphrase_needs_a_terminal(desk: Desk) -> None:
    """Without one, nothing is made and nothing is waited for."""
    done = desk.run("keygen", "--out", "three", "--prompt")
    assert (done.returncode, done.stderr) == (
        2,
        "verify: there is no terminal to ask on (--passphrase-file FILE)\n",
    )
    assert not (desk.folder / "three").exists()
