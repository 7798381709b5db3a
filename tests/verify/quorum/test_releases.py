"""Releases side by side: one members file, one folder and one log for all of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from coattest.errors import FoundFalse, UsageError
from coattest.files import Folder
from coattest_verify.quorum.bundle import make_bundle, read_bundle
from coattest_verify.quorum.decision import decide_from
from coattest_verify.quorum.releases import put_file, release_files, releases_in
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from support.raises import raises_code
from support.verify.logs import sign_log_as
from support.verify.members import NOW, Members, report_json, sentences

NEXT = "0.2.0"


@pytest.fixture
def two(three: Members) -> Members:
    """The decided release 0.1.0, and 0.2.0, which is claimed and which nobody has answered."""
    three.claim(report_json("next", release=NEXT, source="next"))
    return three


def decided(quorum: Members, release: str) -> bool:
    return quorum.decide(release=release).decision is not None


def test_the_next_claim_takes_no_decision_away(two: Members) -> None:
    """From its claim to its last signature, a release changes nothing about the one that runs."""
    before = two.decide(release="0.1.0").require()
    assert not decided(two, NEXT)
    for name in ("buyer-1", "buyer-2"):
        two.sign(name, report_json("next", release=NEXT, source="next"))
        assert two.decide(release="0.1.0").require() == before
    after = two.decide(release=NEXT).require()
    assert after.release == NEXT
    assert after.digest != before.digest


def test_one_log_has_all_releases(two: Members) -> None:
    """Members append and cosign what is there of every release, and both are decided with it."""
    for name in ("buyer-1", "buyer-2"):
        two.sign(name, report_json("next", release=NEXT, source="next"))
        sign_log_as(two, name)
    outcomes = [two.decide(release=release) for release in ("0.1.0", NEXT)]
    assert all(outcome.decision and not outcome.warnings for outcome in outcomes)
    assert outcomes[0].log == outcomes[1].log
    assert outcomes[0].log is not None
    assert outcomes[0].log.size == 6


def test_a_dissent_blocks_its_own_release_only(two: Members) -> None:
    """A dissent from the next release is none from the one that runs."""
    report = report_json("next", release=NEXT, source="next")
    two.sign("buyer-1", report)
    two.sign("buyer-2", report, outcome="dissent", reason="a back door")
    assert decided(two, "0.1.0")
    assert "buyer-2: dissents: a back door" in sentences(two.decide(release=NEXT).warnings)


def test_several_releases_must_be_named(two: Members) -> None:
    """With two claims none is taken by itself; the only one is."""
    with Folder(two.attestations) as folder:
        with raises_code(UsageError, "no-release", match="2 releases are here"):
            release_files(folder, None)
        (two.released / "claim.json").unlink()
        assert release_files(folder, None).release == "0.1.0"
        with raises_code(UsageError, "no-release"):
            release_files(folder, "../0.1.0")


def test_a_release_without_a_claim_is_undecided(two: Members) -> None:
    """A name that is wrong or early is nothing false: what is here is said. A link in its place is false."""
    (reason,) = (outcome := two.decide(release="9.9")).reasons
    assert (outcome.exit_code, reason.code, reason.where) == (3, "no-claim", "releases/9.9/claim.json")
    assert reason.detail == f"no such file (not claimed here yet; other releases here: 0.1.0, {NEXT})"
    (two.released / "claim.json").rename(two.released / "kept.json")
    (reason,) = (outcome := two.decide(release=NEXT)).reasons
    assert (outcome.exit_code, reason.code) == (3, "no-claim")
    (two.released / "claim.json").symlink_to("kept.json")
    (reason,) = (outcome := two.decide(release=NEXT)).reasons
    assert (outcome.exit_code, reason.code) == (1, "bad-claim")


def test_a_claim_that_does_not_parse_is_told_with_its_place(two: Members) -> None:
    """Also where it is the only one, and nobody named the release."""
    (two.attestations / "releases/0.1.0/claim.json").unlink()
    (two.released / "claim.json").write_bytes(b"")
    with Folder(two.attestations) as folder:
        outcome = decide_from(folder, root=two.root, seen=None, profile="aws", now=NOW)
    (reason,) = outcome.reasons
    assert (reason.code, reason.where) == ("bad-claim", f"releases/{NEXT}/claim.json")


def test_a_claim_in_the_folder_of_another_release_is_refused(two: Members) -> None:
    """Nobody gets a decision on one release under the name of another."""
    (two.released / "claim.json").write_bytes((two.attestations / "releases/0.1.0/claim.json").read_bytes())
    (reason,) = two.decide(release=NEXT).reasons
    assert (reason.code, reason.where) == ("bad-claim", f"releases/{NEXT}/claim.json")
    assert reason.detail == f"is about release 0.1.0, not {NEXT}"


def test_a_statement_in_the_folder_of_another_release_does_not_count(two: Members) -> None:
    """A statement counts for the release that it names, whatever folder somebody puts it into."""
    name = "rebuild.buyer-1.intoto.json"
    (two.released / name).write_bytes((two.attestations / "releases/0.1.0" / name).read_bytes())
    outcome = two.decide(release=NEXT)
    assert outcome.agree == ()
    assert {item.where: item.code for item in outcome.refused} == {name: "wrong-release"}


def test_a_file_beside_the_releases_does_not_count_and_is_named(three: Members) -> None:
    """An answer at the place of the old layout is not silently overlooked."""
    (three.attestations / "rebuild.buyer-3.intoto.json").write_bytes(b"{}")
    outcome = three.decide()
    assert outcome.decision is not None
    assert [(item.code, item.where) for item in outcome.refused] == [
        ("wrong-place", "rebuild.buyer-3.intoto.json")
    ]


def test_a_revocation_counts_for_its_source_whatever_the_release_is_called(two: Members) -> None:
    """The same source under another release's name does not get around a revocation."""
    report = report_json("same", release="0.3.0")
    two.claim(report)
    for name in ("buyer-1", "buyer-2"):
        two.sign(name, report)
    assert decided(two, "0.3.0")
    assert two.claimed is not None
    vote = make_vote(REVOKE, "buyer-3", root=two.root, claim=two.claimed, note="CVE-2026-1", now=NOW)
    two.write(vote_name(vote), sign_vote(vote, two.signers["buyer-3"]))
    assert two.released.name == "0.3.0"
    for release in ("0.1.0", "0.3.0"):
        assert "buyer-3: revoked this release: CVE-2026-1" in sentences(two.decide(release=release).reasons)


@pytest.mark.parametrize("kind", ["file", "link", "odd name"])
def test_junk_among_the_releases_stands_in_nobodys_way(three: Members, tmp_path: Path, kind: str) -> None:
    """What is not a release's folder neither crashes a decision nor blocks it."""
    releases = three.attestations / "releases"
    if kind == "file":
        (releases / "9.9.9").write_bytes(b"x")
    elif kind == "link":
        (releases / "9.9.9").symlink_to(tmp_path)
    else:
        (releases / "-rf \n").mkdir()
    assert three.decide().decision is not None
    sign_log_as(three, "buyer-1")


def test_a_linked_folder_of_a_release_is_not_followed(three: Members, tmp_path: Path) -> None:
    """A release's folder that leads elsewhere decides nothing, and nothing is written through it."""
    three.released.rename(tmp_path / "elsewhere")
    three.released.symlink_to(tmp_path / "elsewhere")
    assert [item.code for item in three.decide().reasons] == ["bad-claim"]
    with raises_code(FoundFalse, "linked"):
        put_file(three.attestations, "releases/0.1.0/rebuild.buyer-3.intoto.json", b"{}")
    assert not (tmp_path / "elsewhere" / "rebuild.buyer-3.intoto.json").exists()


def test_a_bundle_holds_what_bears_on_its_release(two: Members) -> None:
    """It decides that release, holds no other one's statements, and every release's revocations."""
    assert two.claimed is not None
    vote = make_vote(REVOKE, "buyer-3", root=two.root, claim=two.claimed, note="no", now=NOW)
    two.write(vote_name(vote), sign_vote(vote, two.signers["buyer-3"]))
    two.sign("buyer-1", report_json("next", release=NEXT, source="next"))
    with Folder(two.attestations) as folder:
        bundle = read_bundle(make_bundle(folder, now=NOW, releases=["0.1.0"]))
        both = read_bundle(make_bundle(folder, now=NOW))
        assert releases_in(folder) == ("0.1.0", NEXT)
    assert bundle.files.names(f"releases/{NEXT}") == (vote_name(vote),)
    assert "claim.json" in both.files.names(f"releases/{NEXT}")
    options = {"root": two.root, "seen": None, "profile": "aws", "now": NOW + timedelta(hours=1)}
    alone = decide_from(bundle.files, **options, release=None).require()
    assert alone.digest == decide_from(both.files, **options, release="0.1.0").require().digest
