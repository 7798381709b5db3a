"""What a verifier remembers: a host that hides or rewrites is noticed, and nobody honest is locked out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import Folder
from coattest_verify.quorum import memory
from coattest_verify.quorum.cosigning import append_log
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.members.chain import Seen, SeenObjection
from coattest_verify.quorum.members.file import MEMBERS_TYPE, Member
from coattest_verify.quorum.memory import Roots, parse_pinned_root
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import REVOKE, UNREVOKE, make_vote, sign_vote, vote_name
from coattest_verify.signatures import dsse, keys
from support.raises import raises_code
from support.verify.logs import sign_log, sign_log_as, write_log
from support.verify.members import NOW, Members, report_json
from support.verify.signing_world import SigningWorld

THREE = ("ann", "ben", "cat")
YOUNG = {"time": datetime.now(timezone.utc).replace(microsecond=0)}
"""When a statement was made that a program judges now."""


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Three members, of whom two decide; ann and ben agree."""
    made = Members.make(tmp_path / "desk", THREE, threshold=2, dissent="block", kinds=("ed25519",))
    made.claim(report_json())
    for name in THREE:
        made.sign(name, report_json())
    return made


def codes(quorum: Members) -> list[str]:
    """The codes of the reasons why nothing is decided; none for a decision."""
    return [reason.code for reason in quorum.decide().reasons]


def log(quorum: Members, *names: str) -> None:
    """One appends, and each of them cosigns."""
    for name in names:
        sign_log_as(quorum, name)


def revoke(quorum: Members, name: str) -> tuple[Path, str]:
    """A member's revocation: its file, and the digest of what it signed."""
    assert quorum.claimed is not None
    vote = make_vote(REVOKE, name, root=quorum.root, claim=quorum.claimed, note="bad", now=NOW)
    return quorum.write(vote_name(vote), sign_vote(vote, quorum.signers[name])), vote.signed_sha256


def test_a_dissent_that_was_seen_once_is_not_hidden(quorum: Members) -> None:
    """Without any log: the host shows cat's dissent, and its agreement in the dissent's place later."""
    agreement = (quorum.released / "rebuild.cat.intoto.json").read_bytes()
    path = quorum.sign("cat", report_json(), outcome="dissent", reason="a back door")
    assert codes(quorum) == ["dissent"]
    path.write_bytes(agreement)
    assert codes(quorum) == ["objection-gone"]
    quorum.roots.path.unlink()
    assert codes(quorum) == []


def test_a_revocation_that_was_seen_once_is_not_hidden(quorum: Members) -> None:
    """It counts although its file is gone, until its signer takes it back."""
    path, digest = revoke(quorum, "cat")
    assert codes(quorum) == ["revoked"]
    path.unlink()
    assert codes(quorum) == ["objection-gone"]
    assert quorum.claimed is not None
    undoing = make_vote(
        UNREVOKE, "cat", root=quorum.root, claim=quorum.claimed, note="fine", now=NOW, undoes=digest
    )
    anns = replace(undoing, member="ann")
    quorum.write(vote_name(anns), sign_vote(anns, quorum.signers["ann"]))
    assert codes(quorum) == ["objection-gone"]
    quorum.write(vote_name(undoing), sign_vote(undoing, quorum.signers["cat"]))
    assert codes(quorum) == []


def test_what_a_removed_key_objected_goes_with_it(quorum: Members, tmp_path: Path) -> None:
    """A thief's revocation, seen once, does not stand for ever: the memory is keyed by the key."""
    path, _ = revoke(quorum, "cat")
    assert codes(quorum) == ["revoked"]
    path.unlink()
    public = keys.generate_key(tmp_path / "new", "ed25519")
    members = [Member(each.name, (public,)) if each.name == "cat" else each for each in quorum.file.members]
    quorum.install(quorum.file.successor(members=tuple(members)), THREE[:2])
    quorum.signers["cat"] = keys.load_signer(tmp_path / "new")
    quorum.sign("cat", report_json())
    assert codes(quorum) == []


def test_a_logged_revocation_by_a_key_that_was_replaced_is_no_file_that_was_removed(
    quorum: Members, tmp_path: Path
) -> None:
    """A thief's revocation, there and in the agreed log, does not stand for ever under "block" either."""
    revoke(quorum, "cat")
    log(quorum, *THREE)
    assert codes(quorum) == ["revoked"]
    public = keys.generate_key(tmp_path / "new", "ed25519")
    members = [Member(each.name, (public,)) if each.name == "cat" else each for each in quorum.file.members]
    quorum.install(quorum.file.successor(members=tuple(members)), THREE[:2])
    quorum.signers["cat"] = keys.load_signer(tmp_path / "new")
    quorum.sign("cat", report_json(), name="rebuild.cat.new.intoto.json")
    log(quorum, *THREE)
    outcome = quorum.decide()
    assert outcome.reasons == ()
    assert "old-key" in {warning.code for warning in outcome.warnings}
    next(quorum.released.glob("revoke.*")).unlink()
    assert codes(quorum) == ["removed-entry"]


def test_a_dissent_is_remembered_for_its_release_alone(quorum: Members) -> None:
    """Another release of the same source has its own answers."""
    quorum.sign("cat", report_json(), outcome="dissent", reason="a back door")
    assert codes(quorum) == ["dissent"]
    quorum.claim(report_json(release="0.1.1"))
    for name in THREE:
        quorum.sign(name, report_json(release="0.1.1"))
    assert codes(quorum) == []


def test_another_claim_for_the_release_hides_no_dissent(quorum: Members) -> None:
    """The host takes the dissent away and shows a claim of another source under the same name."""
    path = quorum.sign("cat", report_json(), outcome="dissent", reason="a back door")
    assert codes(quorum) == ["dissent"]
    path.unlink()
    quorum.claim(report_json(source="other"))
    for name in THREE:
        quorum.sign(name, report_json(source="other"))
    assert codes(quorum) == ["objection-gone"]


def test_a_log_that_nobody_cosigned_locks_nobody_out(quorum: Members) -> None:
    """repro.sh, part 1: an append that lost its push is taken back; who decided meanwhile goes on."""
    log(quorum, *THREE)
    files = {path: path.read_bytes() for path in quorum.attestations.rglob("log/**/*") if path.is_file()}
    path, _ = revoke(quorum, "cat")
    append_log(quorum.attestations, quorum.root, seen=None)
    assert codes(quorum) == ["revoked"]
    for each in quorum.attestations.rglob("log/**/*"):
        if each.is_file():
            each.unlink()
    for each, content in files.items():
        each.write_bytes(content)
    assert path.exists()
    assert codes(quorum) == ["revoked"]


@pytest.mark.parametrize("how", ["gone", "shorter", "damaged", "another"])
def test_a_log_that_was_seen_is_not_taken_away_under_report(tmp_path: Path, how: str) -> None:
    """A signature that was given up completes no version for who remembers the log that says so.

    ben gave it up in the log. Without that log the files alone would put the version in force.
    """
    quorum = Members.make(tmp_path / "desk", THREE, threshold=2, dissent="report", kinds=("ed25519",))
    quorum.claim(report_json())
    for name in THREE:
        quorum.sign(name, report_json())
    theirs, chosen = (quorum.file.successor(round=each) for each in ("theirs", "chosen"))
    log(quorum, *THREE)
    short = {path: path.read_bytes() for path in quorum.attestations.rglob("log/**/*") if path.is_file()}
    for version, word in ((theirs, ".theirs"), (chosen, "")):
        envelope = dsse.sign_envelope(quorum.signers["ben"], MEMBERS_TYPE, version.raw)
        quorum.write(f"quorum.2.ben{word}.dsse.json", envelope.encode())
        log(quorum, *THREE)
    assert codes(quorum) == []
    envelope = dsse.sign_envelope(quorum.signers["ann"], MEMBERS_TYPE, theirs.raw)
    quorum.write("quorum.2.ann.dsse.json", envelope.encode())
    outcome = quorum.decide()
    assert (outcome.decision is not None, outcome.members) == (True, quorum.file)
    whole = {path: path.read_bytes() for path in quorum.attestations.rglob("log/**/*") if path.is_file()}
    shutil.rmtree(quorum.attestations / "log")
    if how == "another":
        write_log(quorum, [b"{}"] * 9)
    elif how != "gone":
        for path, content in short.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if how == "damaged":
        (quorum.attestations / "log" / "checkpoint").write_bytes(b"")
    expected = {"gone": "log-gone", "shorter": "log-shrunk", "damaged": "bad-log", "another": "log-fork"}
    outcome = quorum.decide()
    assert outcome.decision is None
    assert expected[how] in [reason.code for reason in outcome.reasons]
    shutil.rmtree(quorum.attestations / "log", ignore_errors=True)
    for path, content in whole.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert codes(quorum) == []  # what was shown meanwhile is not remembered


def test_the_agreed_log_overrules_a_version_that_was_seen_before_it_was_agreed(quorum: Members) -> None:
    """A verifier that was shown one sibling alone follows the log to the other."""
    first = quorum.file
    shown, right = first.successor(round="shown"), first.successor(round="right")
    for name in THREE[:2]:
        quorum.countersign(shown, name)
    before = quorum.decide()
    assert before.members is not None
    assert before.members.sha256 == shown.sha256
    kept = {path: path.read_bytes() for path in quorum.attestations.glob("quorum.2.*")}
    for path in kept:
        path.unlink()
    for name in THREE[1:]:
        quorum.countersign(right, name)
    log(quorum, *THREE)
    for path, content in kept.items():
        path.with_name(path.name.replace(".dsse", ".kept.dsse")).write_bytes(content)
    after = quorum.decide()
    assert after.members is not None
    assert after.members.sha256 == right.sha256
    seen = quorum.roots.seen(quorum.root)
    assert seen is not None
    assert (seen.sha256, seen.agreed) == (right.sha256, True)


def test_a_version_that_the_log_had_is_not_overruled(quorum: Members) -> None:
    """Old keys write another log, in which another version was first: a fork, for who remembers."""
    shown, right = quorum.file.successor(round="shown"), quorum.file.successor(round="right")
    for name in THREE[1:]:
        quorum.countersign(right, name)
    log(quorum, *THREE)
    quorum.decide()
    for path in [*quorum.attestations.glob("quorum.2.*"), *quorum.attestations.rglob("log/**/*")]:
        if path.is_file():
            path.unlink()
    for name in THREE[:2]:
        envelope = dsse.sign_envelope(quorum.signers[name], MEMBERS_TYPE, shown.raw)
        quorum.write(f"quorum.2.{name}.dsse.json", envelope.encode())
    assert codes(quorum) == ["members-fork"]


def test_one_members_many_objections_push_no_others_out(tmp_path: Path) -> None:
    """Whoever signs a thousand dissents fills its own place alone, and a thief that of the stolen key."""
    roots, root = Roots(tmp_path), bytes(32)

    def objection(member: str, number: int, key: str = "a" * 64) -> SeenObjection:
        return SeenObjection(DISSENT, member, key, f"{number:064x}", "b" * 64, "c" * 64)

    roots.remember(root, Seen(1, "d" * 64, objections=frozenset(objection("ann", n) for n in range(1000))))
    late = frozenset({objection("zoe", 1), objection("ann", 1, "e" * 64)})
    roots.remember(root, Seen(1, "d" * 64, objections=late))
    seen = roots.seen(root)
    assert seen is not None
    assert late <= seen.objections
    assert len(seen.objections) == 258


def test_what_many_members_objected_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 members with 256 objections each made a file that no later command read."""
    roots, root = Roots(tmp_path), bytes(32)
    many = frozenset(
        SeenObjection(DISSENT, f"m{number % 50}", "a" * 64, f"{number:064x}", "b" * 64, "c" * 64, "1", "x86")
        for number in range(50 * 256)
    )
    roots.remember(root, Seen(1, "d" * 64, objections=many))
    seen = roots.seen(root)
    assert seen is not None
    assert seen.objections == many
    monkeypatch.setattr(memory, "MAX_ROOTS_FILE", roots.path.stat().st_size)
    with pytest.raises(EnvironmentFailure, match="more objections than can be remembered"):
        roots.remember(bytes(31) + b"x", Seen(1, "d" * 64))
    assert roots.seen(root) == seen


def test_nothing_that_was_seen_is_ever_lowered(tmp_path: Path) -> None:
    """An earlier version, or one that is not agreed, takes no place of an agreed one."""
    roots, root = Roots(tmp_path), bytes(32)
    roots.remember(root, Seen(3, "a" * 64, agreed=True))
    for other in (Seen(2, "b" * 64, agreed=True), Seen(3, "c" * 64), Seen(2, "d" * 64)):
        roots.remember(root, other)
        assert roots.seen(root) == Seen(3, "a" * 64, agreed=True)
    roots.remember(root, Seen(4, "e" * 64))
    assert roots.seen(root) == Seen(4, "e" * 64)


def test_a_dissent_that_came_by_mail_counts_and_is_remembered(tmp_path: Path) -> None:
    """verify quorum --also: what the host hides blocks, and goes on blocking."""
    world = SigningWorld(tmp_path / "world", THREE, dissent="block")
    world.claim()
    for name in THREE:
        world.quorum.sign(name, report_json(), **YOUNG)
    mail = "rebuild.cat.mail.intoto.json"
    path = world.quorum.sign("cat", report_json(), outcome="dissent", name=mail, **YOUNG)
    mailed = world.desk.folder / path.name
    path.rename(mailed)
    command = ("quorum", "--attestations", str(world.attestations), *world.root)
    assert world.desk.run(*command).returncode == 0
    done = world.desk.run(*command, "--also", str(mailed), "--json")
    assert [each["code"] for each in json.loads(done.stdout)["reasons"]] == ["dissent"]
    done = world.desk.run(*command, "--json")
    assert [each["code"] for each in json.loads(done.stdout)["reasons"]] == ["objection-gone"]
    other = world.desk.folder / "letter.txt"
    other.write_bytes(mailed.read_bytes())
    assert world.desk.run(*command, "--also", str(other)).returncode == 2


def test_without_a_memory_a_verifier_says_so(tmp_path: Path) -> None:
    """--stateless writes nothing, works without a home, and notices a rollback with --seen alone."""
    world = SigningWorld(tmp_path / "world", THREE, dissent="report")
    world.claim()
    for name in THREE:
        world.quorum.sign(name, report_json(), **YOUNG)
    (world.desk.folder / "config").write_text("no folder")
    command = ("quorum", "--attestations", str(world.attestations), "--stateless")
    assert world.desk.run(*command).returncode == 2
    done = world.desk.run(*command, *world.root)
    assert done.returncode == 0, done.stderr
    assert "rollback not detected" in done.stderr
    world.quorum.roots.remember(world.quorum.root, Seen(2, "a" * 64))
    seen = ("--seen", str(world.quorum.roots.path))
    done = world.desk.run(*command, *world.root, *seen, "--json")
    assert [each["code"] for each in json.loads(done.stdout)["reasons"]] == ["members-rollback"]
    assert "rollback not detected" not in done.stderr
    (tmp_path / "other.json").write_text("{}")
    done = world.desk.run(*command, *world.root, "--seen", str(tmp_path / "other.json"))
    assert (done.returncode, "other.json: format: missing (a copy of roots.json)" in done.stderr) == (2, True)


def test_a_root_with_a_floor_takes_no_older_version(tmp_path: Path) -> None:
    """A verifier without memory is shown version 1 with its decision, whose key was stolen since."""
    quorum = Members.make(tmp_path / "desk", ("ann", "ben"), threshold=2)
    quorum.claim(report_json())
    for name in ("ann", "ben"):
        quorum.sign(name, report_json())
    text = f"sha256:{quorum.root.hex()}"

    def decided(root: str) -> Outcome:
        with Folder(quorum.attestations) as folder:
            pinned = parse_pinned_root(root)
            return decide_from(folder, root=pinned, seen=None, profile="aws", now=NOW, release="0.1.0")

    assert decided(f"{text}@1").require().root_sha256 == quorum.root.hex()
    assert [reason.code for reason in decided(f"{text}@2").reasons] == ["members-rollback"]
    quorum.install(quorum.file.successor(round="2"), ("ann", "ben"))
    for name in ("ann", "ben"):
        quorum.sign(name, report_json())
    assert decided(f"{text}@2").decision is not None
    for wrong in ("@0", "@", "@1.5", "@9999999", "@2@3"):
        with raises_code(UsageError, "bad-root"):
            parse_pinned_root(text + wrong)


def test_an_old_copy_is_not_fresh(quorum: Members) -> None:
    """Who remembers nothing, and asks for cosignatures of this week, is not served last month's folder."""
    week, signers = timedelta(days=7), quorum.signers

    def cosigned(*names: str, ago: int) -> None:
        then = NOW - timedelta(days=ago)
        for name in names:
            sign_log(quorum.attestations, quorum.root, name, signers[name], seen=None, now=then)

    def decided() -> Outcome:
        with Folder(quorum.attestations) as folder:
            return decide_from(folder, root=quorum.root, seen=None, profile="aws", now=NOW, fresh=week)

    assert [reason.code for reason in decided().reasons] == ["log-not-fresh"]
    cosigned(*THREE, ago=30)
    assert [reason.code for reason in decided().reasons] == ["log-not-fresh"]
    assert decided().exit_code == 3
    cosigned("ann", ago=1)
    cosigned("cat", ago=-10)  # from the future: a date that would never grow old
    assert [reason.code for reason in decided().reasons] == ["log-not-fresh"]
    cosigned("ben", ago=3)
    assert decided().require().expires == NOW + timedelta(days=4)
