"""Attacks on a release's name: by whoever hosts the folder, by one member, and by a thief of a key."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.files import Folder, ReadOnce
from coattest_verify.quorum.cosigning import cosign_log
from coattest_verify.quorum.log.entries import parse_entry, vote_entry
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import Member
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport, Statement
from coattest_verify.quorum.statements.votes import PUBLISH, make_vote, read_votes, sign_vote, vote_name
from coattest_verify.rebuild.answer import OwnReport, answer, read_ask, read_state
from coattest_verify.rebuild.publishing import sign_publication
from coattest_verify.signatures import keys
from coattest_verify.signatures.journal import SignatureJournal
from support.raises import raises_code
from support.verify.logs import sign_log_as, write_log
from support.verify.members import NOW, Members, claim_json, report_json

THREE = ("ann", "ben", "cat")


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Three members, two of whom decide; ann published a claim, and ann and ben agree."""
    made = Members.make(tmp_path / "desk", THREE, threshold=2, dissent="report", kinds=("ed25519",))
    made.claim(report_json())
    for name in THREE[:2]:
        made.sign(name, report_json())
    return made


def reasons(quorum: Members) -> list[str]:
    """The codes of why nothing is decided."""
    return [reason.code for reason in quorum.decide().reasons]


def log(quorum: Members, *names: str) -> None:
    """Appended, and cosigned by each."""
    for name in names or THREE:
        sign_log_as(quorum, name)


def published(quorum: Members) -> Path:
    """The one publication."""
    (path,) = quorum.released.glob("publish.*")
    return path


def publish(
    quorum: Members,
    member: str,
    report: dict[str, Any],
    *,
    built: dict[str, Any] | None = None,
    tag: str | None = "v1",
    now: datetime = NOW,
) -> Any:
    """What ``verify release publish`` does, on this member's machine."""
    own = OwnReport(RebuildReport.read(built or report), quorum.folder, "0" * 64)
    with Folder(quorum.attestations) as folder:
        evidence = ReadOnce(folder)
        return sign_publication(
            quorum.attestations,
            evidence,
            json.dumps(claim_json(report)).encode(),
            own,
            member=member,
            signer=quorum.signers[member],
            root=quorum.root,
            state=read_state(evidence, quorum.attestations),
            tag=tag,
            now=now,
            journal=SignatureJournal(),
            approve=lambda claim, vote: None,
        )


def test_a_claim_that_nobody_signed_decides_nothing(quorum: Members) -> None:
    """The host takes the signature away, or puts another claim beside it."""
    assert reasons(quorum) == []
    path = published(quorum)
    content = path.read_bytes()
    path.unlink()
    assert reasons(quorum) == ["claim-unsigned"]
    assert quorum.decide().exit_code == 3
    path.write_bytes(content)
    report = report_json(release="0.1.0", source="other")
    (quorum.released / "claim.json").write_text(json.dumps(claim_json(report)))
    assert "claim-unsigned" in reasons(quorum)


def test_an_agreed_name_stays_with_its_claim(quorum: Members) -> None:
    """A second claim, signed by another member and with everybody's answers, has the name no more."""
    log(quorum)
    first = published(quorum)
    content = first.read_bytes()
    quorum.claim(report_json("evil"), by="cat")
    first.write_bytes(content)
    for name in THREE:
        quorum.sign(name, report_json("evil"), name=f"rebuild.{name}.evil.intoto.json")
    assert "name-taken" in reasons(quorum)
    assert quorum.decide().exit_code == 1
    with Folder(quorum.attestations) as folder:
        ask = read_ask(ReadOnce(folder), quorum.attestations, "0.1.0")
    with raises_code(EnvironmentFailure, "name-taken", match="belongs to claim sha256:"):
        answer(ask, RebuildReport.read(report_json("evil")), member="cat", dissent=False, now=NOW)


def test_two_claims_that_no_log_orders_decide_nothing(quorum: Members) -> None:
    """Whichever the host shows as claim.json; once the log has the first one, the other changes nothing."""
    first, claim = published(quorum), (quorum.released / "claim.json").read_bytes()
    content = first.read_bytes()
    log(quorum, "ann")  # appended, and too few cosigned
    quorum.claim(report_json("evil"), by="cat")
    first.write_bytes(content)
    (quorum.released / "claim.json").write_bytes(claim)
    assert reasons(quorum) == ["claim-disputed"]
    log(quorum)
    assert reasons(quorum) == []


def test_a_rival_takes_no_name_by_its_members_letters(quorum: Members) -> None:
    """Ann publishes another claim than ben's, which was decided before anybody had logged anything."""
    published(quorum).unlink()
    quorum.publish("ben")
    claim = (quorum.released / "claim.json").read_bytes()
    kept = {path: path.read_bytes() for path in quorum.released.iterdir()}
    quorum.claim(report_json("evil"), by="ann")
    for path, content in kept.items():
        path.write_bytes(content)
    assert (quorum.released / "claim.json").read_bytes() == claim
    assert reasons(quorum) == ["claim-disputed"]
    log(quorum, "ben", "cat")
    assert reasons(quorum) == []


def test_a_publisher_that_leaves_leaves_the_name(quorum: Members, tmp_path: Path) -> None:
    """With an agreed entry its key may go; a thief of the old key publishes nothing more."""
    log(quorum)
    keys.generate_key(tmp_path / "new", "ed25519")
    stolen = quorum.signers["ann"]
    quorum.signers["ann"] = keys.load_signer(tmp_path / "new")
    parties = tuple(
        Member(each.name, (quorum.signers["ann"].public,)) if each.name == "ann" else each
        for each in quorum.file.members
    )
    quorum.install(quorum.file.successor(members=parties), THREE[1:])
    quorum.sign("ann", report_json(), name="rebuild.ann.2.intoto.json")
    assert reasons(quorum) == []
    quorum.signers["ann"], mine = stolen, quorum.signers["ann"]
    quorum.claimed = Claimed.decode(json.dumps(claim_json(report_json("x", release="0.2.0"))).encode())
    quorum.write("claim.json", json.dumps(claim_json(report_json("x", release="0.2.0"))).encode())
    quorum.publish("ann")
    quorum.signers["ann"] = mine
    assert "claim-unsigned" in reasons(quorum)


def elsewhere(quorum: Members, report: dict[str, Any]) -> None:
    """Ben's publication in another quorum of his, by the same key, put here by whoever may push."""
    claim = Claimed.decode(json.dumps(claim_json(report)).encode())
    named = (claim.sha256, "b" * 40, "v9")
    vote = make_vote(PUBLISH, "ben", root=bytes(32), claim=claim, note="test", now=NOW, published=named)
    (quorum.released / vote_name(vote)).write_bytes(sign_vote(vote, quorum.signers["ben"]))


def test_a_publication_in_another_quorum_takes_no_name_here(quorum: Members) -> None:
    """Logged first, it would own the name for good."""
    path = published(quorum)
    content = path.read_bytes()
    path.unlink()
    elsewhere(quorum, report_json("evil"))
    log(quorum)
    path.write_bytes(content)
    log(quorum)
    assert reasons(quorum) == []


def test_a_publication_in_another_quorum_publishes_nothing_here(quorum: Members) -> None:
    """Nor does a cosigner take an entry for it from somebody else."""
    path = published(quorum)
    path.unlink()
    elsewhere(quorum, report_json())
    log(quorum)
    assert reasons(quorum) == ["claim-unsigned"]
    with Folder(quorum.attestations) as folder:
        found = read_quorum_log(folder, quorum.root, quorum.file)
        votes, _ = read_votes(ReleaseFiles(folder, "0.1.0"), quorum.file)
    assert found is not None
    write_log(quorum, [*found.entries, *map(vote_entry, votes)])
    with raises_code(FoundFalse, "removed-entry"):
        cosign_log(quorum.attestations, quorum.root, "cat", quorum.signers["cat"], seen=None, now=NOW)


def test_an_unsigned_claim_ends_no_time_for_commitments(tmp_path: Path) -> None:
    """Whoever may push cannot log a claim in whose place nobody stands."""
    quorum = Members.make(tmp_path / "desk", THREE, threshold=2, dissent="report", commitments=2)
    quorum.claim(report_json())
    path = published(quorum)
    content = path.read_bytes()
    path.unlink()
    quorum.sign("ann", None, outcome="could-not-build")

    def kinds() -> set[str]:
        with Folder(quorum.attestations) as folder:
            found = read_quorum_log(folder, quorum.root, quorum.file)
        return {parse_entry(each).kind for each in (found.entries if found else ())}

    log(quorum)
    assert kinds() == {"rebuild"}
    path.write_bytes(content)
    log(quorum)
    assert kinds() == {"rebuild", "claim", PUBLISH}


def test_a_member_publishes_what_it_built_and_once(quorum: Members) -> None:
    """Not another's bytes, not in another claim's place, and not two claims of one name."""
    assert publish(quorum, "ben", report_json()) is None
    with raises_code(UsageError, "exists"):
        publish(quorum, "ben", report_json("evil"))
    other = report_json(release="0.2.0")
    with raises_code(FoundFalse, "mismatch"):
        publish(quorum, "ben", other, built=report_json("evil", release="0.2.0"))
    done = publish(quorum, "ben", other)
    assert done.exists()
    with Folder(quorum.attestations) as folder:
        vote = read_ask(folder, quorum.attestations, "0.2.0").published
    assert (vote.by, vote.commit, vote.tag, vote.finding) == ("ben", "a" * 40, "v1", None)
    for path in done.parent.iterdir():
        path.unlink()
    with raises_code(FoundFalse, "already-signed"):
        publish(quorum, "ben", report_json("evil", release="0.2.0"))


def test_a_tag_that_would_not_be_read_is_not_signed(quorum: Members) -> None:
    """A release's name of 64 characters has none by default."""
    report = report_json(release="r" * 64)
    with raises_code(UsageError, "usage", match="too long"):
        publish(quorum, "ben", report, tag=None)
    assert publish(quorum, "ben", report).exists()


def test_another_commit_than_the_published_one_is_not_signed(quorum: Members) -> None:
    """The same bytes from another commit say nothing about the one that was named; a dissent needs none."""
    with Folder(quorum.attestations) as folder:
        ask = read_ask(ReadOnce(folder), quorum.attestations, "0.1.0")
    report = RebuildReport.read(report_json())
    elsewhere = replace(report, built=replace(report.built, commit="b" * 40))
    with raises_code(EnvironmentFailure, "wrong-source", match="ann published commit a{40}"):
        answer(ask, elsewhere, member="cat", dissent=False, now=NOW)
    assert answer(ask, elsewhere, member="cat", dissent=True, reason="no", now=NOW).outcome == "dissent"


def test_a_commit_that_nobody_has_keeps_nobody_from_answering(quorum: Members) -> None:
    """Ann's publication is the log's first; ben publishes the same claim with the commit that is there."""
    log(quorum)
    report = report_json()
    report["source"]["commit"] = "b" * 40
    mine = RebuildReport.read(report)

    def asked() -> Statement:
        with Folder(quorum.attestations) as folder:
            ask = read_ask(ReadOnce(folder), quorum.attestations, "0.1.0")
            return answer(ask, mine, member="cat", dissent=False, now=NOW)

    with raises_code(EnvironmentFailure, "wrong-source"):
        asked()
    assert publish(quorum, "ben", report).exists()
    assert publish(quorum, "ben", report, now=NOW + timedelta(seconds=1)) is None
    assert asked().outcome == "agree"
    log(quorum)
    assert asked().outcome == "agree"
