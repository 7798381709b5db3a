"""What the statements of a folder add up to."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure
from coattest_verify.quorum.members.file import Member, MemberGroup
from coattest_verify.signatures import keys
from support.verify.members import NOW, Members, report_json, sentences


def refusals(quorum: Members, **options: Any) -> dict[str, str]:
    return {item.where: item.code for item in quorum.decide(**options).refused}


def test_two_of_three_decide_when_one_is_absent(three: Members) -> None:
    """Agree, agree, absent is a decision of the claim's digests when dissent is reported."""
    outcome = three.decide()
    decision = outcome.require()
    claimed = report_json()["profiles"]["aws"]
    assert decision.pcrs == {index: claimed["pcrs"][f"PCR{index}"] for index in range(3)}
    assert (decision.image_sha384, decision.image_size) == (
        claimed["image"]["sha384"],
        claimed["image"]["size"],
    )
    assert decision.agreed == ("buyer-1", "buyer-2")
    assert outcome.missing == ("buyer-3",)


def test_silence_is_not_agreement_when_dissent_blocks(blocking: Members) -> None:
    """Under "block" every member has to answer: an absent one may be a removed dissent."""
    assert blocking.decide().decision is not None
    (blocking.released / "rebuild.buyer-3.intoto.json").unlink()
    outcome = blocking.decide()
    assert outcome.decision is None
    assert sentences(outcome.reasons) == ("buyer-3: has not answered, and silence is not agreement",)


def test_a_dissent_blocks_under_block(blocking: Members) -> None:
    """Agree, agree, dissent is no decision under "block", and the dissenter and the register are named."""
    blocking.sign("buyer-3", report_json("other"), outcome="dissent")
    outcome = blocking.decide()
    assert outcome.decision is None
    assert len(sentences(outcome.reasons)) == 1
    assert sentences(outcome.reasons)[0].startswith("buyer-3: dissents: PCR0 ")


def test_a_dissent_warns_under_report(three: Members) -> None:
    """Agree, agree, dissent is a decision with a warning under "report"."""
    three.sign("buyer-3", report_json("other"), outcome="dissent", reason="PCR0 differs here")
    outcome = three.decide()
    assert outcome.decision is not None
    assert "buyer-3: dissents: PCR0 differs here" in sentences(outcome.warnings)[0]


def test_agree_and_forged_is_no(three: Members) -> None:
    """A statement in buyer-2's name that buyer-3 signed does not count."""
    three.sign("buyer-2", report_json(), key_of="buyer-3")
    outcome = three.decide()
    assert outcome.decision is None
    assert sentences(outcome.reasons) == ("quorum.toml: 1 of 2 members agree",)
    assert refusals(three) == {"rebuild.buyer-2.intoto.json": "bad-signature"}


def test_could_not_build_is_a_dissent_until_a_result_follows(blocking: Members) -> None:
    """ "Could not build" blocks; a later agreeing statement of the same member replaces it."""
    name = "rebuild.buyer-3.first.intoto.json"
    (blocking.released / "rebuild.buyer-3.intoto.json").unlink()
    blocking.sign(
        "buyer-3", None, outcome="could-not-build", reason="no disk", name=name, age=timedelta(hours=5)
    )
    assert sentences(blocking.decide().reasons) == ("buyer-3: dissents: could not build: no disk",)
    blocking.sign("buyer-3", report_json(), age=timedelta(hours=9))
    assert blocking.decide().decision is None
    blocking.sign("buyer-3", report_json(), age=timedelta(hours=1))
    assert blocking.decide().decision is not None


def test_every_section_counts(three: Members) -> None:
    """Equal PCRs do not suffice: a boundary moved between two sections is a dissent (docs/quorum.md)."""
    moved = report_json()
    sections = moved["profiles"]["aws"]["sections"]
    sections[3]["size"], sections[4]["size"] = sections[3]["size"] + 512, sections[4]["size"] - 512
    three.sign("buyer-2", moved)
    outcome = three.decide()
    assert outcome.decision is None
    assert outcome.dissent[0].detail.startswith("section 3 ramdisk of 16896 bytes")


@pytest.mark.parametrize("digest", ["sha256", "sha384"])
def test_the_image_bytes_count(three: Members, digest: str) -> None:
    """A different image file with the same PCRs is a dissent."""
    other = report_json()
    other["profiles"]["aws"]["image"][digest] = "ab" * (32 if digest == "sha256" else 48)
    three.sign("buyer-2", other)
    assert three.decide().decision is None


def test_one_profile_is_decided_without_the_other(three: Members) -> None:
    """A difference in one profile says nothing about the other, and the decision names its profile."""
    other = report_json()
    other["profiles"]["local"] = report_json("other")["profiles"]["local"]
    three.sign("buyer-2", other)
    assert three.decide(profile="aws").require().profile == "aws"
    assert three.decide(profile="local").decision is None


def test_an_unknown_profile_is_not_decided(three: Members) -> None:
    """A profile that the claim does not have is a reason, not a crash."""
    assert sentences(three.decide(profile="gpu").reasons) == (
        "releases/0.1.0/claim.json: has no profile 'gpu', only aws, local",
    )


def test_own_statement_is_required_where_it_binds(three: Members) -> None:
    """Others' votes never bind a member: with ``own`` its own agreeing statement must be there."""
    assert three.decide(own="buyer-1").decision is not None
    outcome = three.decide(own="buyer-3")
    with pytest.raises(EnvironmentFailure, match="buyer-3: has no agreeing statement of its own") as caught:
        outcome.require()
    assert caught.value.code == "no-decision"


def test_the_digest_does_not_depend_on_who_agreed(three: Members) -> None:
    """One more agreeing statement leaves the decision's digest as it is."""
    before = three.decide().require()
    three.sign("buyer-3", report_json())
    after = three.decide().require()
    assert after.agreed != before.agreed
    assert after.digest == before.digest


def test_the_release_digest_does_not_depend_on_the_members_files_version(three: Members) -> None:
    """Enrolling a member makes nothing unreadable that is bound to the release."""
    before = three.decide().require()
    public = keys.generate_key(three.folder / "keys" / "buyer-4")
    three.signers["buyer-4"] = keys.load_signer(three.folder / "keys" / "buyer-4")
    following = three.file.successor(members=(*three.file.members, Member("buyer-4", (public,))))
    three.install(following, tuple(three.signers))
    for name in ("buyer-1", "buyer-2"):
        three.sign(name, report_json())
    after = three.decide().require()
    assert before.release_digest == after.release_digest
    assert before.digest != after.digest
    assert (before.quorum_sha256, after.quorum_sha256) == (str(following.previous)[7:], following.sha256)


def test_the_digest_depends_on_what_was_decided(three: Members, tmp_path: Path) -> None:
    """Another profile, another image and another quorum give other digests."""
    digests = {three.decide().require().digest, three.decide(profile="local").require().digest}
    other = Members.make(tmp_path / "other", ["buyer-1"], threshold=1)
    for seed in ("good", "next"):
        other.claim(report_json(seed))
        other.sign("buyer-1", report_json(seed))
        digests.add(other.decide().require().digest)
    assert len(digests) == 4


def test_an_old_statement_does_not_agree(three: Members) -> None:
    """A statement older than max_age_days is refused, and the decision lapses with it."""
    assert three.decide(now=NOW + timedelta(days=89)).decision is not None
    outcome = three.decide(now=NOW + timedelta(days=90))
    assert outcome.decision is None
    assert {item.code for item in outcome.refused} == {"too-old"}


def test_a_dissent_does_not_age(three: Members) -> None:
    """Freshness protects against replayed agreement; an old dissent stays one."""
    three.sign("buyer-3", report_json("other"), outcome="dissent", age=timedelta(days=80))
    outcome = three.decide(now=NOW + timedelta(days=30))
    assert [answer.member for answer in outcome.dissent] == ["buyer-3"]


def test_a_statement_from_the_future_does_not_agree(three: Members) -> None:
    """A clock may be five minutes ahead, not more."""
    three.sign("buyer-2", report_json(), age=-timedelta(minutes=5))
    assert three.decide().decision is not None
    three.sign("buyer-2", report_json(), age=-timedelta(minutes=5, seconds=1))
    assert refusals(three) == {"rebuild.buyer-2.intoto.json": "from-the-future"}


def test_a_cached_kernel_does_not_count_by_default(three: Members) -> None:
    """A member that did not compile the kernel itself does not count."""
    three.sign("buyer-2", report_json(compiled=False))
    assert three.decide().decision is None
    assert refusals(three) == {"rebuild.buyer-2.intoto.json": "cached-kernel"}


def test_a_cached_kernel_counts_where_the_members_file_says_so(tmp_path: Path) -> None:
    """``require_compiled_kernel = false`` lets it count."""
    quorum = Members.make(tmp_path, ["buyer-1"], require_compiled_kernel=False)
    quorum.claim(report_json(compiled=False))
    quorum.sign("buyer-1", report_json(compiled=False))
    assert quorum.decide().decision is not None


def test_a_member_with_two_keys_counts_once(tmp_path: Path) -> None:
    """Statements by both keys of one member are one vote."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2"], threshold=2, dissent="report", keys_each=2)
    quorum.claim(report_json())
    quorum.sign("buyer-1", report_json())
    quorum.sign("buyer-1", report_json(), key_of="buyer-1/2", name="rebuild.buyer-1.second.intoto.json")
    outcome = quorum.decide()
    assert outcome.refused == ()
    assert sentences(outcome.reasons) == ("quorum.toml: 1 of 2 members agree",)


def test_groups_are_thresholds_of_their_own(tmp_path: Path) -> None:
    """Two of the buyers and one of the auditors: three agreeing buyers do not replace an auditor."""
    names = ["buyer-1", "buyer-2", "buyer-3", "audit-1", "audit-2"]
    quorum = Members.make(
        tmp_path,
        names,
        threshold=3,
        dissent="report",
        groups=(
            MemberGroup("buyers", ("buyer-1", "buyer-2", "buyer-3"), 2),
            MemberGroup("auditors", ("audit-1", "audit-2"), 1),
            MemberGroup("all", ("buyers", "auditors"), 2),
        ),
    )
    quorum.claim(report_json())
    for name in names[:3]:
        quorum.sign(name, report_json())
    assert sentences(quorum.decide().reasons) == ("quorum.toml: 1 of 2 of group all agree",)
    quorum.sign("audit-2", report_json())
    assert quorum.decide().decision is not None


def test_diversity_of_routes(tmp_path: Path) -> None:
    """Where two build routes are required, two agreeing native builds do not suffice."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2"], routes=2)
    native, container = report_json(), report_json()
    container["route"] = "container"
    quorum.claim(native)
    quorum.sign("buyer-1", native)
    quorum.sign("buyer-2", native)
    assert sentences(quorum.decide().reasons) == ("quorum.toml: 1 of 2 different build routes",)
    quorum.sign("buyer-2", container)
    assert quorum.decide().decision is not None
