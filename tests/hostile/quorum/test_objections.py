"""Attacks on what takes a dissent or a silence out of the way, and on statements over versions."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.files import Folder, ReadOnce
from coattest_verify.quorum.log.entries import statement_entry
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import Member, MemberGroup, MembersFile
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.provenance import sign_statement
from coattest_verify.quorum.statements.signed import SignedStatement, read_statements
from coattest_verify.quorum.statements.statement import RebuildReport
from coattest_verify.quorum.statements.votes import (
    EXCUSE,
    REVOKE,
    UNREVOKE,
    WITHDRAW,
    make_vote,
    sign_vote,
    vote_name,
)
from coattest_verify.rebuild.answer import answer, read_ask
from coattest_verify.signatures import keys
from support.verify.logs import sign_log, write_log
from support.verify.members import NOW, Members, report_json
from support.verify.signing_world import SigningWorld

THREE = ("ann", "ben", "cat")


def made(folder: Path, **rules: Any) -> Members:
    """Three members under "block", two keys each; ann and ben agree."""
    values = {"threshold": 2, "dissent": "block", "keys_each": 2, "kinds": ("ed25519",), **rules}
    quorum = Members.make(folder / "desk", THREE, **values)
    quorum.claim(report_json())
    for name in THREE[:2]:
        quorum.sign(name, report_json())
    return quorum


@pytest.fixture
def dissented(tmp_path: Path) -> Members:
    """ann and ben agree, cat dissents, and the log that all cosigned has it."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json(), outcome="dissent", reason="a flaky disk")
    log(quorum)
    assert codes(quorum) == ["dissent"]
    return quorum


def log(quorum: Members, *names: str, append: bool = True) -> None:
    """One appends, and each of them cosigns."""
    for name in names or THREE:
        signer = quorum.signers[name]
        sign_log(quorum.attestations, quorum.root, name, signer, seen=None, now=NOW, append=append)


def codes(quorum: Members) -> list[str]:
    """The codes of the reasons why nothing is decided; none for a decision."""
    return [reason.code for reason in quorum.decide().reasons]


def statements(quorum: Members) -> list[SignedStatement]:
    """The statements on the release."""
    with Folder(quorum.attestations) as folder:
        return read_statements(ReleaseFiles(folder, "0.1.0"), quorum.file)[0]


def dissent(quorum: Members) -> str:
    """The digest of what the one dissent signed."""
    (found,) = (item for item in statements(quorum) if item.statement.outcome == "dissent")
    return found.signed_sha256


def vote(quorum: Members, kind: str, name: str, *, key: str = "", **values: Any) -> Path:
    """A member's vote on the release, by a key of its own or another one."""
    assert quorum.claimed is not None
    made = make_vote(kind, name, root=quorum.root, claim=quorum.claimed, note="why", now=NOW, **values)
    return quorum.write(vote_name(made), sign_vote(made, quorum.signers[key or name]))


def again(quorum: Members, **options: Any) -> None:
    """cat's later, agreeing statement, beside its dissent."""
    quorum.sign("cat", report_json(), name="rebuild.cat.again.intoto.json", age=timedelta(0), **options)


def renewed(quorum: Members, name: str, folder: Path) -> MembersFile:
    """The next version, in which a member has one new key and no old one."""
    public = keys.generate_key(folder / "new", "ed25519")
    quorum.signers[f"{name}/new"] = keys.load_signer(folder / "new")
    members = [Member(each.name, (public,)) if each.name == name else each for each in quorum.file.members]
    return quorum.file.successor(members=tuple(members))


# --- withdrawal -------------------------------------------------------------------------------------


def test_a_dissent_is_withdrawn_by_its_signer(dissented: Members) -> None:
    """With an entry in the agreed log and a later statement of its own; not by one of them alone."""
    vote(dissented, WITHDRAW, "cat", undoes=dissent(dissented))
    log(dissented)
    assert codes(dissented) == ["dissent"]
    again(dissented)
    outcome = dissented.decide()
    assert outcome.decision is not None
    assert outcome.agree == THREE
    assert [warning.code for warning in outcome.warnings] == ["undone"]


def test_a_dissent_about_another_source_is_withdrawn(tmp_path: Path) -> None:
    """cat had checked out something else, and takes that back: what it says later is about the claim."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json(source="other"), outcome="dissent", reason="another source")
    log(quorum)
    assert codes(quorum) == ["dissent"]
    vote(quorum, WITHDRAW, "cat", undoes=dissent(quorum))
    again(quorum)
    log(quorum)
    assert codes(quorum) == []


def test_what_was_signed_in_the_dissents_second_takes_nothing_back(dissented: Members) -> None:
    """Whoever appends both chooses which entry is first: an agreement of before the dissent is not later."""
    second = next(item.statement.time for item in statements(dissented) if item.statement.member == "cat")
    vote(dissented, WITHDRAW, "cat", undoes=dissent(dissented))
    again(dissented, time=second)
    log(dissented)
    assert codes(dissented) == ["dissent"]
    again(dissented, time=second + timedelta(seconds=1))
    assert codes(dissented) == []


def test_the_commands_date_the_next_answer_after_the_dissent(dissented: Members) -> None:
    """In the same second, too; a dissent from the far future moves nothing."""
    (item,) = (item for item in statements(dissented) if item.statement.outcome == "dissent")
    report = RebuildReport.read(report_json())
    with Folder(dissented.attestations) as folder:
        ask = read_ask(ReadOnce(folder), dissented.attestations, "0.1.0")
        for now, date in (
            (item.statement.time, item.statement.time + timedelta(seconds=1)),
            (item.statement.time - timedelta(hours=1), item.statement.time - timedelta(hours=1)),
        ):
            assert answer(ask, report, member="cat", dissent=False, now=now).time == date


def test_a_withdrawal_outside_the_agreed_log_is_pending(dissented: Members) -> None:
    """Nobody can show it to one verifier and hide it from another."""
    vote(dissented, WITHDRAW, "cat", undoes=dissent(dissented))
    again(dissented)
    assert codes(dissented) == ["dissent"]
    assert "pending" in [warning.code for warning in dissented.decide().warnings]
    log(dissented, "cat")
    assert codes(dissented) == ["dissent"]
    log(dissented)
    assert codes(dissented) == []


def test_a_member_is_told_that_its_dissent_is_not_in_the_agreed_log(tmp_path: Path) -> None:
    """It blocks at once, and until the others cosigned its entry the host can still hide it from them."""
    quorum = made(tmp_path)
    log(quorum)
    quorum.sign("cat", report_json(), outcome="dissent", reason="a back door")
    assert codes(quorum) == ["dissent"]
    assert [(each.code, each.where) for each in quorum.decide().warnings] == [("pending", "cat")]
    log(quorum)
    assert quorum.decide().warnings == ()


def test_another_key_of_the_member_withdraws_nothing(dissented: Members) -> None:
    """A thief of cat's second key cannot take back what the first one signed."""
    vote(dissented, WITHDRAW, "cat", key="cat/2", undoes=dissent(dissented))
    again(dissented, key_of="cat/2")
    log(dissented)
    assert codes(dissented) == ["dissent"]


def test_a_member_does_not_withdraw_anothers_dissent(dissented: Members) -> None:
    """ann's withdrawal of cat's dissent is void."""
    vote(dissented, WITHDRAW, "ann", undoes=dissent(dissented))
    again(dissented)
    log(dissented)
    assert codes(dissented) == ["dissent"]


def test_a_withdrawal_is_of_no_use_against_a_later_dissent(dissented: Members) -> None:
    """It names what was signed, so it is not replayed."""
    vote(dissented, WITHDRAW, "cat", undoes=dissent(dissented))
    again(dissented)
    log(dissented)
    assert codes(dissented) == []
    dissented.sign("cat", report_json(), outcome="dissent", reason="no", name="rebuild.cat.2.intoto.json")
    assert codes(dissented) == ["dissent"]


def test_a_new_round_takes_no_dissent_away(dissented: Members) -> None:
    """Nor does a new version: a majority that wants a yes cannot start over."""
    dissented.install(dissented.file.successor(round="2"), THREE[:2])
    for name in THREE[:2]:
        dissented.sign(name, report_json())
    assert "dissent" in codes(dissented)


def test_a_dissent_outlives_the_key_that_signed_it(dissented: Members, tmp_path: Path) -> None:
    """Replacing cat's key takes its logged dissent not away; the new key does not withdraw it."""
    dissented.install(renewed(dissented, "cat", tmp_path), THREE[:2])
    log(dissented, *THREE[:2])
    assert codes(dissented) == ["dissent"]
    assert [answer.member for answer in dissented.decide().dissent] == ["cat"]


def test_what_was_withdrawn_in_time_stays_withdrawn(dissented: Members, tmp_path: Path) -> None:
    """cat withdraws, and replaces its key later: with a statement by the new key all is as it was."""
    vote(dissented, WITHDRAW, "cat", undoes=dissent(dissented))
    again(dissented)
    log(dissented)
    assert codes(dissented) == []
    dissented.install(renewed(dissented, "cat", tmp_path), THREE[:2])
    log(dissented, *THREE[:2])
    assert codes(dissented) == ["dissent"]  # its later statement went with the key
    dissented.sign(
        "cat", report_json(), name="rebuild.cat.new.intoto.json", age=timedelta(0), key_of="cat/new"
    )
    assert codes(dissented) == []


def test_a_thief_withdraws_nothing_with_a_key_that_was_replaced(dissented: Members, tmp_path: Path) -> None:
    """What it signs now has no entry from before: the dissent stands."""
    digest = dissent(dissented)
    dissented.install(renewed(dissented, "cat", tmp_path), THREE[:2])
    log(dissented, *THREE[:2])
    vote(dissented, WITHDRAW, "cat", undoes=digest)
    dissented.sign(
        "cat", report_json(), name="rebuild.cat.new.intoto.json", age=timedelta(0), key_of="cat/new"
    )
    log(dissented, *THREE[:2])
    assert codes(dissented) == ["dissent"]


def test_a_thief_dates_no_dissent_back(tmp_path: Path) -> None:
    """A key that was removed objects no more: what it signs now has no entry before its removal."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json(), age=timedelta(hours=1))
    first = quorum.file
    quorum.install(renewed(quorum, "cat", tmp_path), THREE[:2])
    log(quorum, *THREE[:2])
    old = quorum.statement("cat", report_json(), outcome="dissent", age=timedelta(days=5))
    stolen = replace(old, quorum_version=first.version, quorum_sha256=first.sha256)
    quorum.write("rebuild.cat.stolen.intoto.json", sign_statement(stolen, quorum.signers["cat"]))
    log(quorum, *THREE[:2])
    assert quorum.decide().dissent == ()
    with Folder(quorum.attestations) as folder:
        found = read_quorum_log(folder, quorum.root, quorum.file)
        thieves = read_statements(ReleaseFiles(folder, "0.1.0"), first)[0]
    assert found is not None
    (entry,) = [statement_entry(item) for item in thieves if item.statement.outcome == "dissent"]
    write_log(quorum, [*found.entries, entry])
    log(quorum, *THREE[:2], append=False)
    quorum.sign("cat", report_json(), key_of="cat/new")
    outcome = quorum.decide()
    assert (outcome.dissent, outcome.reasons) == ((), ())


# --- excuse -----------------------------------------------------------------------------------------


def test_a_majority_excuses_silence(tmp_path: Path) -> None:
    """Under "block" cat's silence stands in the way until change members excused it in the agreed log."""
    quorum = made(tmp_path)
    vote(quorum, EXCUSE, "ann", excused="cat")
    log(quorum, *THREE[:2])
    assert codes(quorum) == ["no-answer"]
    vote(quorum, EXCUSE, "ben", excused="cat")
    assert codes(quorum) == ["no-answer"]
    log(quorum, *THREE[:2])
    assert codes(quorum) == []


def test_one_member_with_many_excuses_is_one(tmp_path: Path) -> None:
    """Two files of ann, by two keys, are ann's."""
    quorum = made(tmp_path)
    vote(quorum, EXCUSE, "ann", excused="cat")
    path = vote(quorum, EXCUSE, "ann", key="ann/2", excused="cat")
    path.rename(path.with_name("excuse.ann.second.dsse.json"))
    vote(quorum, EXCUSE, "ann", excused="cat")
    log(quorum, *THREE[:2])
    assert codes(quorum) == ["no-answer"]


def test_a_hidden_dissent_counts_in_spite_of_excused_silence(tmp_path: Path) -> None:
    """Who was excused for silence and had dissented is heard as soon as the dissent is shown."""
    quorum = made(tmp_path)
    path = quorum.sign("cat", report_json(), outcome="dissent", reason="a back door")
    hidden = path.read_bytes()
    path.unlink()
    for name in THREE[:2]:
        vote(quorum, EXCUSE, name, excused="cat")
    log(quorum, *THREE[:2])
    assert codes(quorum) == []
    path.write_bytes(hidden)
    assert codes(quorum) == ["dissent"]


def test_a_logged_dissent_whose_file_was_removed_is_not_excused_as_silence(dissented: Members) -> None:
    """The host removes cat's dissent, and the others are asked to excuse its silence."""
    (dissented.released / "rebuild.cat.intoto.json").unlink()
    for name in THREE[:2]:
        vote(dissented, EXCUSE, name, excused="cat")
    with pytest.raises(Exception, match="has no file here"):
        log(dissented, *THREE[:2])
    assert "removed-entry" in codes(dissented)


def test_a_majority_excuses_a_dissent_by_its_digest(dissented: Members) -> None:
    """And no other one of the member."""
    for name in THREE[:2]:
        vote(dissented, EXCUSE, name, excused="cat", undoes=dissent(dissented))
        vote(dissented, EXCUSE, name, excused="cat")
    log(dissented)
    assert codes(dissented) == []
    dissented.sign("cat", report_json(), outcome="dissent", reason="again", name="rebuild.cat.2.intoto.json")
    assert codes(dissented) == ["dissent"]


def test_excuses_age(tmp_path: Path) -> None:
    """Silence is not excused for ever, and the decision ends with the excuses."""
    quorum = made(tmp_path, max_age_days=30)
    for name in THREE[:2]:
        vote(quorum, EXCUSE, name, excused="cat")
    log(quorum, *THREE[:2])
    for name in THREE[:2]:
        quorum.sign(name, report_json(), age=timedelta(days=-20))
    log(quorum, *THREE[:2])
    before = quorum.decide(now=NOW + timedelta(days=29))
    assert before.require().expires == NOW + timedelta(days=30)
    after = quorum.decide(now=NOW + timedelta(days=30))
    assert [reason.code for reason in after.reasons] == ["no-answer"]


# --- revocations of others ----------------------------------------------------------------------------


def test_a_majority_takes_a_revocation_back(tmp_path: Path) -> None:
    """Of a lost key, or a member gone mad: in the agreed log, and not one of them alone."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json())
    path = vote(quorum, REVOKE, "cat")
    digest = hashlib.sha256(base64.b64decode(json.loads(path.read_bytes())["payload"])).hexdigest()
    vote(quorum, UNREVOKE, "ann", undoes=digest)
    log(quorum)
    assert codes(quorum) == ["revoked"]
    vote(quorum, UNREVOKE, "ben", undoes=digest)
    assert codes(quorum) == ["revoked"]
    log(quorum)
    assert codes(quorum) == []
    assert [warning.code for warning in quorum.decide().warnings] == ["undone"]


def test_members_take_anothers_revocation_back_at_their_desks(tmp_path: Path) -> None:
    """unrevoke with the digest of another member's revocation, by two of three."""
    world = SigningWorld(tmp_path / "world")
    world.built()
    desk, expect = world.desk, ("--expect", world.claimed)
    for name in ("buyer-1", "buyer-2"):
        desk.ok("sign-pcrs", "--rebuild", "out", *expect, *world.who(name))
    revoked = desk.json("release", "revoke", *world.who("buyer-3"), *world.root, "--reason", "x", *expect)
    undo = ("release", "unrevoke", *world.root, "--reason", "y")
    assert desk.run(*undo, *world.who("buyer-1")).returncode == 2
    for name in ("buyer-1", "buyer-2"):
        desk.ok(*undo, *world.who(name), "--expect", f"sha256:{revoked['sha256']}")
    where = ("--attestations", str(world.attestations), *world.root)
    assert desk.run("quorum", *where).returncode == 1
    desk.ok("log", "append", *where)
    for name in ("buyer-1", "buyer-2"):
        desk.ok("log", "cosign", *world.who(name), *world.root)
    assert desk.run("quorum", *where).returncode == 0


# --- statements over versions -----------------------------------------------------------------------


def test_statements_stay_valid_over_a_version_that_changed_others(tmp_path: Path) -> None:
    """A new expiry, or another member's key, costs nobody a new ceremony."""
    quorum = made(tmp_path, dissent="report")
    assert codes(quorum) == []
    quorum.install(renewed(quorum, "cat", tmp_path), THREE[:2])
    assert codes(quorum) == []


def test_a_replaced_key_costs_its_own_member_alone_its_statements(tmp_path: Path) -> None:
    """ben's old key is gone, and what it signed with it: a stolen key agrees to nothing."""
    quorum = made(tmp_path, dissent="report")
    quorum.install(renewed(quorum, "ben", tmp_path), ["ann", "cat", "ben"])
    outcome = quorum.decide()
    assert outcome.agree == ("ann",)
    assert {item.code for item in outcome.refused} == {"old-key"}


def test_who_left_and_came_back_signs_again(tmp_path: Path) -> None:
    """A re-added member's old statements do not count, although its key is the same."""
    quorum = made(tmp_path, dissent="report")
    members = quorum.file.members
    quorum.install(
        quorum.file.successor(members=tuple(each for each in members if each.name != "ben")), THREE
    )
    quorum.install(quorum.file.successor(members=members), THREE)
    outcome = quorum.decide()
    assert outcome.agree == ("ann",)
    assert {item.code for item in outcome.refused} == {"wrong-members-file"}


def test_todays_rules_apply_to_yesterdays_statements(tmp_path: Path) -> None:
    """A stricter version is not answered by what was enough before it."""
    quorum = made(tmp_path, dissent="report", require_compiled_kernel=False)
    quorum.sign("ben", report_json(compiled=False))
    assert codes(quorum) == []
    quorum.install(quorum.file.successor(require_compiled_kernel=True), THREE[:2])
    outcome = quorum.decide()
    assert outcome.agree == ("ann",)
    assert {item.code for item in outcome.refused} == {"cached-kernel"}


def test_statements_meet_the_groups_of_today(tmp_path: Path) -> None:
    """Who changes the groups does not make old agreement count for more than it is."""
    quorum = made(tmp_path, dissent="report")
    assert codes(quorum) == []
    quorum.install(quorum.file.successor(groups=(MemberGroup("outside", ("cat",), 1),)), THREE)
    assert codes(quorum) == ["group-unmet"]
    assert quorum.decide().agree == ("ann", "ben")


def test_a_statement_under_a_version_that_never_was_in_force_does_not_count(tmp_path: Path) -> None:
    """A host's own members file, shown to a member, gives it nothing to use elsewhere."""
    quorum = made(tmp_path, dissent="report")
    other = quorum.file.successor(threshold=1)
    quorum.sign("ben", report_json(), quorum_version=2, quorum_sha256=other.sha256)
    assert quorum.decide().agree == ("ann",)


def test_who_leaves_leaves_its_groups(tmp_path: Path) -> None:
    """Removing a member names the groups that it was in, and takes it out of them."""
    groups = (MemberGroup("big", ("buyer-1", "buyer-3"), 2), MemberGroup("one", ("buyer-3",), 1))
    world = SigningWorld(tmp_path / "world", groups=groups[:1])
    where = ("--attestations", str(world.attestations))
    done = world.desk.run("members", "enroll", "--remove", "buyer-3", *where)
    assert done.returncode == 0, done.stderr
    assert "group big: 1 of buyer-1, without buyer-3" in done.stderr
    proposed = MembersFile.decode((world.attestations / "quorum.next.toml").read_bytes())
    assert proposed.groups == (MemberGroup("big", ("buyer-1",), 1),)
    other = SigningWorld(tmp_path / "other", groups=groups)
    where = ("--attestations", str(other.attestations))
    done = other.desk.run("members", "enroll", "--remove", "buyer-3", *where)
    assert done.returncode == 2
    assert "nobody would be left in group one" in done.stderr


# --- the commands -----------------------------------------------------------------------------------


def test_a_member_withdraws_at_its_desk(tmp_path: Path) -> None:
    """withdraw, log, sign again: the journal lets the other result through, and the dissent's file stays."""
    world = SigningWorld(tmp_path / "world", dissent="block")
    world.built()
    desk, expect = world.desk, ("--expect", world.claimed)
    who = {name: world.who(name) for name in ("buyer-1", "buyer-2", "buyer-3")}
    signing = ("sign-pcrs", "--rebuild", "out", *expect)
    for name in ("buyer-1", "buyer-2"):
        desk.ok(*signing, *who[name])
    desk.ok(*signing, *who["buyer-3"], "--dissent", "--reason", "a flaky disk")
    assert desk.run(*signing, *who["buyer-3"]).returncode == 1
    (item,) = [item for item in read_world(world) if item.statement.outcome == "dissent"]
    release = ("--release", "0.1.0", *world.root)
    desk.ok(
        *("release", "withdraw", *who["buyer-3"], *release, "--reason", "the disk"),
        *("--expect", f"sha256:{item.signed_sha256}"),
    )
    desk.ok(*signing, *who["buyer-3"])
    assert (world.released / "rebuild.buyer-3.intoto.json").exists()
    where = ("--attestations", str(world.attestations), *world.root)
    assert desk.run("quorum", *where).returncode == 1
    desk.ok("log", "append", *where)
    for name in ("buyer-1", "buyer-2"):
        desk.ok("log", "cosign", *who[name], *world.root)
    assert desk.run("quorum", *where).returncode == 0


def read_world(world: SigningWorld) -> list[SignedStatement]:
    """The statements in a world's folder."""
    with Folder(world.attestations) as folder:
        return read_statements(ReleaseFiles(folder, "0.1.0"), world.quorum.file)[0]


def test_members_excuse_another_at_their_desks(tmp_path: Path) -> None:
    """excuse, log, cosign: the silent member no longer stands in the way."""
    world = SigningWorld(tmp_path / "world", dissent="block")
    world.built()
    desk, expect = world.desk, ("--expect", world.claimed)
    where = ("--attestations", str(world.attestations), *world.root)
    for name in ("buyer-1", "buyer-2"):
        desk.ok("sign-pcrs", "--rebuild", "out", *expect, *world.who(name))
        desk.ok(
            *("release", "excuse", *world.who(name), *world.root, "--release", "0.1.0"),
            *("--whom", "buyer-3", "--reason", "on leave", *expect),
        )
    assert desk.run("quorum", *where).returncode == 3
    desk.ok("log", "append", *where)
    for name in ("buyer-1", "buyer-2"):
        desk.ok("log", "cosign", *world.who(name), *world.root)
    assert desk.run("quorum", *where).returncode == 0
