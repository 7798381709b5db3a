"""Attacks on a log that is begun again: it takes nothing back, and nobody but the members begins it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import FoundFalse, Rejected
from coattest.files import Folder, ReadOnce
from coattest.strictjson import canonical
from coattest_verify.quorum.cosigning import seen_by_cosigner, sound_log
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.log.checkpoint import cosign
from coattest_verify.quorum.log.entries import SeenLog, members_entry
from coattest_verify.quorum.log.examine import cosignature_file, head, read_quorum_log
from coattest_verify.quorum.log.merkle import leaf_hash, tree_root
from coattest_verify.quorum.members.chain import Seen, SeenObjection, follow
from coattest_verify.quorum.members.file import MEMBERS_TYPE, Member, MembersFile, RestartPoint
from coattest_verify.quorum.members.restarting import check_restart, proposed_restart
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import ReleaseFiles, put_file
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.signed import SignedStatement, read_statements
from coattest_verify.quorum.statements.votes import (
    COMMIT,
    PUBLISH,
    REVOKE,
    WITHDRAW,
    make_vote,
    sign_vote,
    vote_name,
)
from coattest_verify.signatures import dsse, keys
from coattest_verify.signatures.journal import SignatureJournal
from support.raises import raises_code
from support.verify.logs import made_log, sign_log, write_log
from support.verify.members import NOW, Members, report_json

THREE = ("ann", "ben", "cat")


def made(folder: Path, **rules: Any) -> Members:
    """Three members under "block" of whom two decide; all agree, and cosigned a log of it."""
    values = {"threshold": 2, "dissent": "block", "kinds": ("ed25519",), **rules}
    quorum = Members.make(folder / "desk", THREE, **values)
    quorum.claim(report_json())
    for name in THREE:
        quorum.sign(name, report_json())
    log(quorum)
    return quorum


def seen_by_a_cosigner(quorum: Members) -> Seen:
    """What a member remembers that has cosigned the log as it is now, and nothing before."""
    with Folder(quorum.attestations) as folder:
        chain = follow(folder, quorum.root, seen=None, now=NOW)
        sound = sound_log(chain)
        assert sound is not None
        return seen_by_cosigner(folder, chain, sound, None)


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """That quorum, and a verifier that has decided in it."""
    quorum = made(tmp_path)
    assert codes(quorum) == []
    return quorum


def log(quorum: Members, *names: str, append: bool = True) -> None:
    """One appends, and each of them cosigns, each on a machine of its own."""
    for name in names or THREE:
        signer = quorum.signers[name]
        sign_log(quorum.attestations, quorum.root, name, signer, seen=None, now=NOW, append=append)


def codes(quorum: Members) -> list[str]:
    """The codes of the reasons why the verifier that remembers decides nothing; none for a decision."""
    return [reason.code for reason in quorum.decide().reasons]


def fresh(quorum: Members, seen: Seen | None = None) -> Outcome:
    """What a verifier decides that remembers nothing, or exactly that."""
    with Folder(quorum.attestations) as folder:
        return decide_from(
            folder, root=quorum.root, seen=seen, profile="aws", now=NOW, release=quorum.released.name
        )


def reasons(outcome: Outcome) -> list[str]:
    """Their codes."""
    return [reason.code for reason in outcome.reasons]


def entries(quorum: Members) -> tuple[bytes, ...]:
    """The log's entries in the folder."""
    with Folder(quorum.attestations) as folder:
        found = read_quorum_log(folder, quorum.root, quorum.file)
    assert found is not None
    return found.entries


def statements(quorum: Members) -> list[SignedStatement]:
    """The statements on the release."""
    with Folder(quorum.attestations) as folder:
        return read_statements(ReleaseFiles(folder, "0.1.0"), quorum.file)[0]


def in_force(outcome: Outcome) -> str:
    """The digest of the version that an outcome was decided under."""
    assert outcome.members is not None, outcome.reasons
    return outcome.members.sha256


def lose(quorum: Members, size: int) -> tuple[bytes, ...]:
    """The log is set back to its first entries, with no cosignature that fits; what it was."""
    before = entries(quorum)
    shutil.rmtree(quorum.attestations / "log")
    write_log(quorum, before[:size])
    return before


def proposal(quorum: Members, **changes: Any) -> MembersFile:
    """The version that begins the log again, whose log is in the folder."""
    with Folder(quorum.attestations) as folder:
        point, files = proposed_restart(folder, quorum.file)
    for name, content in files.items():
        put_file(quorum.attestations, name, content)
    return quorum.file.successor(restart=point, **changes)


def begin_again(quorum: Members, *names: str, **changes: Any) -> MembersFile:
    """It is signed by these members, and in force."""
    version = proposal(quorum, **changes)
    for name in names or THREE:
        refuse_or_not(quorum, version, name)
    quorum.install(version, names or THREE)
    return version


def refuse_or_not(quorum: Members, version: MembersFile, name: str = "ann", seen: Seen | None = None) -> None:
    """What a member's program looks at before it signs. Raises FoundFalse."""
    with Folder(quorum.attestations) as folder:
        evidence = ReadOnce(folder)
        journal = SignatureJournal()
        check_restart(evidence, version, quorum.file, member=name, journal=journal, seen=seen)


def sign(quorum: Members, version: MembersFile, *names: str, word: str = "") -> None:
    """Signatures on a version that stand in no other's place."""
    for name in names:
        envelope = dsse.sign_envelope(quorum.signers[name], MEMBERS_TYPE, version.raw)
        member, _, which = name.partition("/")
        quorum.write(f"quorum.{version.version}.{member}{word}{which}.dsse.json", envelope.encode())


def named(found: Sequence[bytes]) -> RestartPoint:
    """The restart point of these entries."""
    return RestartPoint(len(found), tree_root([leaf_hash(entry) for entry in found]).hex())


def vote(quorum: Members, kind: str, name: str, *, key: str = "", **values: Any) -> Path:
    """A member's vote on the release, by a key of its own or another one."""
    assert quorum.claimed is not None
    cast = make_vote(
        kind, name, root=quorum.root, claim=quorum.claimed, **{"note": "why", "now": NOW, **values}
    )
    return quorum.write(vote_name(cast), sign_vote(cast, quorum.signers[key or name]))


def rotated(quorum: Members, name: str, folder: Path) -> MembersFile:
    """The next version, in which a member has a new key (the signer NAME/new) and no old one."""
    folder.mkdir(exist_ok=True)
    public = keys.generate_key(folder / name, "ed25519")
    quorum.signers[f"{name}/new"] = keys.load_signer(folder / name)
    members = [Member(each.name, (public,)) if each.name == name else each for each in quorum.file.members]
    return quorum.file.successor(members=tuple(members))


# --- what it is for ---------------------------------------------------------------------------------


def test_members_go_on_from_what_they_name(quorum: Members) -> None:
    """A lost log locks everybody out who saw it, until a version of the members file names another one."""
    lose(quorum, 1)
    assert codes(quorum) == ["log-shrunk"]
    version = begin_again(quorum)
    assert version.restart is not None
    assert version.restart.size == len(entries(quorum))
    outcome = quorum.decide()
    assert (outcome.reasons, outcome.exit_code) == ((), 0)
    assert reasons(fresh(quorum)) == []
    log(quorum)
    assert codes(quorum) == []
    remembered = quorum.roots.seen(quorum.root)
    assert remembered is not None
    assert remembered.log is not None
    assert (remembered.version, remembered.log.restart) == (2, version.sha256)
    assert len(entries(quorum)) == remembered.log.size > version.restart.size


def test_a_log_of_which_nothing_is_left_begins_anew(quorum: Members) -> None:
    """From the files: what was published keeps its name, and everybody's answers count."""
    shutil.rmtree(quorum.attestations / "log")
    assert codes(quorum) == ["log-gone"]
    begin_again(quorum)
    log(quorum)
    assert codes(quorum) == []


def test_the_version_after_it_goes_on_with_the_same_log(quorum: Members) -> None:
    """A restart point is for one version; the log keeps the key that it got."""
    lose(quorum, 1)
    begin_again(quorum)
    log(quorum)
    after = quorum.file.successor(round="1")
    assert after.restart is None
    quorum.install(after, THREE)
    log(quorum)
    assert codes(quorum) == []
    lose(quorum, 2)
    assert codes(quorum) == ["log-shrunk"]
    again = begin_again(quorum)
    log(quorum)
    assert codes(quorum) == []
    seen = quorum.roots.seen(quorum.root)
    assert seen is not None
    assert seen.log is not None
    assert (seen.log.restart, seen.log.version) == (again.sha256, 4)


# --- a host -----------------------------------------------------------------------------------------


def test_a_fork_without_it_stays_a_fork(quorum: Members) -> None:
    """Whatever the log says about itself, and whoever cosigned it."""
    kept = lose(quorum, 2)
    write_log(quorum, [*kept[1:], kept[0]])
    assert codes(quorum) == ["log-fork"]
    for name, content in made_log([*kept[1:], kept[0]], quorum.root, "ab" * 32).items():
        quorum.write(name, content)
    assert codes(quorum) == ["bad-log"]
    assert reasons(fresh(quorum)) == ["bad-log"]


def test_a_host_that_withholds_the_restart_shows_no_log(quorum: Members) -> None:
    """Neither to who saw it, nor to who saw the old log, nor to who saw nothing."""
    old = quorum.roots.seen(quorum.root)
    first = quorum.file
    lose(quorum, 1)
    version = begin_again(quorum)
    log(quorum)
    assert codes(quorum) == []
    for path in quorum.attestations.glob("quorum.2.*"):
        path.unlink()
    quorum.write("quorum.toml", first.raw)
    for seen in (quorum.roots.seen(quorum.root), old, None):
        assert reasons(fresh(quorum, seen)) == ["removed-entry"]
    assert version.restart is not None
    for name, content in made_log(
        entries(quorum)[: version.restart.size], quorum.root, version.sha256
    ).items():
        quorum.write(name, content)
    assert codes(quorum) == ["members-rollback"]
    assert reasons(fresh(quorum, old)) == ["bad-log"]
    assert reasons(fresh(quorum)) == ["bad-log"]


def test_the_old_log_counts_no_more_beside_the_restart(quorum: Members) -> None:
    """Its tail, which the members gave up, says nothing, although enough of them cosigned it then."""
    quorum.sign("cat", report_json(), name="rebuild.cat.no.intoto.json", outcome="dissent", reason="a door")
    log(quorum)
    size = len(entries(quorum))
    (dissent,) = (item for item in statements(quorum) if item.statement.outcome == "dissent")
    withdrawal = vote(quorum, WITHDRAW, "cat", undoes=dissent.signed_sha256)
    quorum.sign("cat", report_json(), name="rebuild.cat.later.intoto.json", age=timedelta(0))
    log(quorum)
    assert reasons(fresh(quorum)) == []
    tail = {path: path.read_bytes() for path in quorum.attestations.rglob("log/**/*") if path.is_file()}
    version = quorum.file.successor(restart=named(entries(quorum)[:size]))
    sign(quorum, version, *THREE)
    assert reasons(fresh(quorum)) == ["dissent"]
    assert codes(quorum) == ["dissent"]
    withdrawal.unlink()
    log(quorum)
    assert codes(quorum) == ["dissent"]
    for path, content in tail.items():
        path.write_bytes(content)
    assert codes(quorum) == ["dissent", "log-shrunk"]


def test_a_host_that_takes_the_log_away_from_a_restart_decides_nothing(tmp_path: Path) -> None:
    """Also under "report", and for who remembers nothing: the version says that there is a log."""
    quorum = made(tmp_path, dissent="report")
    begin_again(quorum)
    assert reasons(fresh(quorum)) == []
    lose(quorum, 1)
    outcome = fresh(quorum)
    assert (reasons(outcome), outcome.exit_code) == (["log-shrunk"], 3)
    shutil.rmtree(quorum.attestations / "log")
    assert reasons(fresh(quorum)) == ["log-gone"]


def test_a_restart_that_too_few_signed_begins_nothing(quorum: Members) -> None:
    """One member alone, with a log of its own making."""
    write_log(quorum, lose(quorum, 1)[::-1])
    assert codes(quorum) == ["log-fork"]
    version = proposal(quorum)
    quorum.write("quorum.next.toml", version.raw)
    sign(quorum, version, "cat")
    assert codes(quorum) == ["log-fork"]
    sign(quorum, version, "ann")
    assert codes(quorum) == []


# --- members who left -------------------------------------------------------------------------------


@pytest.mark.parametrize("agreed", [True, False])
def test_members_who_left_begin_no_log_again(tmp_path: Path, agreed: bool) -> None:
    """Old keys sign a version 2 of their own with a restart point, and cosign a log in which it is first."""
    quorum = made(tmp_path)
    assert codes(quorum) == []
    first = quorum.file
    second = rotated(quorum, "ann", tmp_path / "new")
    quorum.file = second
    second = first.successor(members=rotated(quorum, "ben", tmp_path / "new").members)
    quorum.file = second
    sign(quorum, second, *THREE, "ann/new", "ben/new", word=".x")
    quorum.write("quorum.toml", second.raw)
    if agreed:
        log(quorum)
    quorum.sign("ann", report_json(), key_of="ann/new")
    quorum.sign("ben", report_json(), key_of="ben/new")
    quorum.decide()
    seen = quorum.roots.seen(quorum.root)
    assert seen is not None
    assert (seen.version, seen.sha256, seen.agreed) == (2, second.sha256, agreed)
    hide = [*quorum.attestations.glob("quorum.2.*")]
    quorum.file = first
    quorum.write("quorum.toml", first.raw)
    kept = {path: path.read_bytes() for path in hide}
    for path in hide:
        path.unlink()
    entry = [each for each in entries(quorum) if b'"members"' not in each]
    evil = first.successor(restart=named(entry), round="evil")
    sign(quorum, evil, "ann", "ben", word=".evil")
    for name in ("ann", "ben"):
        public = quorum.signers[name].public
        entry.append(members_entry(evil, name, public.fingerprint))
    for name, content in made_log(entry, quorum.root, evil.sha256).items():
        quorum.write(name, content)
    checkpoint = head(entry, quorum.root, evil.sha256)
    for name in ("ann", "ben"):
        note = cosign(checkpoint, name, quorum.signers[name], NOW)
        quorum.write(cosignature_file(name), note.encode())
    assert in_force(fresh(quorum)) == evil.sha256  # who saw nothing, and is shown nothing else
    for later in (evil, evil.successor()):
        sign(quorum, later, "ann", "ben", word=".evil")
        assert codes(quorum) == ["members-fork"]
        for path, content in kept.items():
            path.write_bytes(content)
        assert codes(quorum) == ["members-fork"]
        for path in kept:
            path.unlink()


def test_a_member_that_only_took_turns_knows_the_version_too(tmp_path: Path) -> None:
    """What it cosigned tells it which version is in force: a log begun again from an older one is refused."""
    quorum = made(tmp_path)
    first = quorum.file
    second = first.successor(round="2")
    quorum.install(second, THREE)
    log(quorum)
    seen = seen_by_a_cosigner(quorum)
    assert (seen.version, seen.sha256, seen.agreed) == (2, second.sha256, True)
    for path in quorum.attestations.glob("quorum.2.*"):
        path.unlink()
    quorum.file = first
    evil = first.successor(restart=named(entries(quorum)))
    quorum.install(evil, THREE[:2])
    assert reasons(fresh(quorum, seen)) == ["removed-entry"]


# --- members who change everything ------------------------------------------------------------------


def test_members_who_begin_again_hide_no_dissent_that_was_seen(quorum: Members) -> None:
    """ann and ben leave cat's dissent out of the new log, and its file out of the folder."""
    path = quorum.sign("cat", report_json(), outcome="dissent", reason="a back door")
    log(quorum)
    assert codes(quorum) == ["dissent"]
    agreement = quorum.statement("cat", report_json())
    path.unlink()
    shutil.rmtree(quorum.attestations / "log")
    quorum.sign("cat", report_json())
    assert agreement.outcome == "agree"
    quorum.install(proposal(quorum), ("ann", "ben"))
    log(quorum, "ann", "ben")
    assert codes(quorum) == ["objection-gone"]


def test_members_who_begin_again_hide_no_revocation_that_was_seen(quorum: Members) -> None:
    """The same for a revocation."""
    path = vote(quorum, REVOKE, "cat")
    log(quorum)
    assert codes(quorum) == ["revoked"]
    path.unlink()
    shutil.rmtree(quorum.attestations / "log")
    quorum.install(proposal(quorum), ("ann", "ben"))
    log(quorum, "ann", "ben")
    assert codes(quorum) == ["objection-gone"]


def test_of_two_restarts_none_counts(quorum: Members) -> None:
    """ben signed both: no decision for who saw neither, and the one that was seen for who saw it."""
    one = proposal(quorum)
    other = quorum.file.successor(restart=named(entries(quorum)[:2]))
    sign(quorum, one, "ann", "ben", word=".one")
    assert codes(quorum) == []
    sign(quorum, other, "ben", "cat", word=".other")
    assert reasons(fresh(quorum)) == ["members-fork"]
    assert codes(quorum) == []


def test_a_removed_key_does_not_come_back_in_a_lost_stretch(tmp_path: Path) -> None:
    """The version that removed cat's stolen key is lost from the log: the thief takes no dissent back."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json(), name="rebuild.cat.no.intoto.json", outcome="dissent", reason="a door")
    log(quorum)
    size = len(entries(quorum))
    (dissent,) = (item for item in statements(quorum) if item.statement.outcome == "dissent")
    quorum.install(rotated(quorum, "cat", tmp_path / "new"), THREE)
    sign(quorum, quorum.file, "cat/new", word=".new")
    log(quorum, "ann", "ben")
    quorum.sign("cat", report_json(), name="rebuild.cat.new.intoto.json", age=timedelta(0), key_of="cat/new")
    assert "dissent" in codes(quorum)
    lose(quorum, size)
    quorum.install(quorum.file.successor(restart=named(entries(quorum))), ("ann", "ben"))
    vote(quorum, WITHDRAW, "cat", undoes=dissent.signed_sha256)  # by the stolen key
    log(quorum, "ann", "ben")
    assert "dissent" in codes(quorum)
    assert "dissent" in reasons(fresh(quorum))


def test_a_thiefs_withdrawal_among_the_named_entries_takes_nothing_back(tmp_path: Path) -> None:
    """It lies in the folder when the log is made anew: nobody knows whether the key was its member's then."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json(), name="rebuild.cat.no.intoto.json", outcome="dissent", reason="a door")
    log(quorum)
    (dissent,) = (item for item in statements(quorum) if item.statement.outcome == "dissent")
    quorum.install(rotated(quorum, "cat", tmp_path / "new"), THREE)
    sign(quorum, quorum.file, "cat/new", word=".new")
    log(quorum, "ann", "ben")
    quorum.sign("cat", report_json(), name="rebuild.cat.new.intoto.json", age=timedelta(0), key_of="cat/new")
    vote(quorum, WITHDRAW, "cat", undoes=dissent.signed_sha256)  # by the stolen key
    shutil.rmtree(quorum.attestations / "log")
    begin_again(quorum, "ann", "ben")
    log(quorum, "ann", "ben")
    assert "dissent" in reasons(fresh(quorum))
    assert "dissent" in codes(quorum)


def test_whatever_is_left_of_the_log_a_dissent_and_a_version_stay(tmp_path: Path) -> None:
    """cat dissented, and has another key since. Begun again from any beginning of the log, or from none."""
    quorum = made(tmp_path)
    quorum.sign("cat", report_json(), name="rebuild.cat.no.intoto.json", outcome="dissent", reason="a door")
    log(quorum)
    quorum.install(rotated(quorum, "cat", tmp_path / "new"), THREE)
    sign(quorum, quorum.file, "cat/new", word=".new")
    log(quorum, "ann", "ben")
    quorum.sign("cat", report_json(), name="rebuild.cat.new.intoto.json", age=timedelta(0), key_of="cat/new")
    log(quorum, "ann", "ben")
    assert "dissent" in codes(quorum)
    whole, second, before = entries(quorum), quorum.file, quorum.roots.seen(quorum.root)
    for size in range(len(whole) + 1):
        shutil.rmtree(quorum.attestations / "log")
        if size:
            write_log(quorum, whole[:size])
        third = begin_again(quorum, "ann", "ben")
        for seen in (None, before):
            outcome = fresh(quorum, seen)
            assert (size, in_force(outcome)) == (size, third.sha256)
            assert (size, reasons(outcome)) == (size, ["dissent"])
        for path in quorum.attestations.glob("quorum.3.*"):
            path.unlink()
        quorum.file = second
        quorum.write("quorum.toml", second.raw)


# --- what a signer's program looks at ---------------------------------------------------------------


def test_an_invented_entry_is_not_signed(quorum: Members) -> None:
    """Whoever proposes has put a dissent into the log that nobody signed."""
    found = entries(quorum)
    invented = next(entry for entry in found if b'"agree"' in entry).replace(b'"agree"', b'"dissent"')
    write_log(quorum, [*found, invented])
    with raises_code(FoundFalse, "removed-entry"):
        refuse_or_not(quorum, quorum.file.successor(restart=named([*found, invented])))


def test_a_log_that_leaves_a_dissent_out_is_not_signed(quorum: Members) -> None:
    """With a later key of its member it would not count any more."""
    version = proposal(quorum)
    refuse_or_not(quorum, version)
    quorum.sign("cat", report_json(), name="rebuild.cat.no.intoto.json", outcome="dissent", reason="a door")
    with raises_code(FoundFalse, "removed-entry"):
        refuse_or_not(quorum, version)


def test_what_this_machine_has_seen_is_not_signed_away(quorum: Members) -> None:
    """An objection whose file is not there any more."""
    first, claim = quorum.file, quorum.claimed
    assert claim is not None
    gone = SeenObjection(REVOKE, "cat", "0" * 64, "1" * 64, claim.tree_sha256, claim.lock_sha256)
    with raises_code(FoundFalse, "objection-gone"):
        refuse_or_not(quorum, proposal(quorum), seen=Seen(1, first.sha256, objections=frozenset({gone})))


@pytest.mark.parametrize("kind", ["dissent", "revocation"])
def test_what_a_member_cosigned_is_not_signed_away(quorum: Members, kind: str) -> None:
    """It only takes turns: it has decided nothing, and looked at each entry that it cosigned."""
    if kind == "dissent":
        path = quorum.sign(
            "cat", report_json(), name="rebuild.cat.no.intoto.json", outcome="dissent", reason="x"
        )
    else:
        path = vote(quorum, REVOKE, "cat")
    log(quorum)
    seen = seen_by_a_cosigner(quorum)
    path.unlink()
    shutil.rmtree(quorum.attestations / "log")
    version = proposal(quorum)
    with raises_code(FoundFalse, "objection-gone"):
        refuse_or_not(quorum, version, seen=seen)


def test_entries_that_are_in_it_twice_are_not_signed(quorum: Members) -> None:
    """They would be agreed at once and for good: one member could make the log as large as a log may be."""
    found = entries(quorum)
    many = [*found, *[found[-1]] * 1000]
    shutil.rmtree(quorum.attestations / "log")
    write_log(quorum, many)
    with raises_code(FoundFalse, "bad-log"):
        refuse_or_not(quorum, quorum.file.successor(restart=named(many)))


def test_what_was_agreed_is_not_given_up(quorum: Members) -> None:
    """With a log that is there: names, commitments and withdrawals would get another order."""
    found = entries(quorum)
    version = quorum.file.successor(restart=named(found[:1]))
    with raises_code(FoundFalse, "removed-entry"):
        refuse_or_not(quorum, version)
    seen = quorum.roots.seen(quorum.root)
    for path in quorum.attestations.glob("log/cosignature.*"):
        path.unlink()
    with raises_code(FoundFalse, "removed-entry"):
        refuse_or_not(quorum, version, seen=seen)
    refuse_or_not(quorum, quorum.file.successor(restart=named(found)), seen=seen)


def test_a_log_that_is_not_here_is_not_signed(quorum: Members) -> None:
    """The named entries are looked at, and no digest is taken on trust."""
    with raises_code(FoundFalse, "log-fork"):
        refuse_or_not(quorum, quorum.file.successor(restart=RestartPoint(3, "ab" * 32)))
    found = entries(quorum)
    with raises_code(FoundFalse, "log-fork"):
        refuse_or_not(quorum, quorum.file.successor(restart=named([*found, b"{}"])))
    shutil.rmtree(quorum.attestations / "log")
    with raises_code(FoundFalse, "log-fork"):
        refuse_or_not(quorum, quorum.file.successor(restart=named(found)))


def test_a_rivals_publication_takes_no_name_in_a_log_that_is_made_anew(quorum: Members) -> None:
    """cat's letter would come after ann's, and its entry first."""
    assert quorum.claimed is not None
    vote(quorum, PUBLISH, "cat", published=("ab" * 32, "b" * 40, "v1"))
    refuse_or_not(quorum, proposal(quorum))
    found = list(entries(quorum))
    rival = next(entry for entry in found if b"ab" * 32 in entry)
    found.remove(rival)
    shutil.rmtree(quorum.attestations / "log")
    write_log(quorum, [rival, *found])
    with raises_code(FoundFalse, "name-taken"):
        refuse_or_not(quorum, quorum.file.successor(restart=named([rival, *found])))


@pytest.mark.parametrize("twice", [False, True])
def test_one_member_with_two_claims_for_a_name_stops_no_restart(quorum: Members, twice: bool) -> None:
    """cat publishes a claim that nobody has, and puts another one there, which it publishes too or not."""
    lose(quorum, 1)
    assert quorum.claimed is not None
    folder = quorum.attestations / "releases" / "0.9.9"
    folder.mkdir()
    values = json.loads((quorum.attestations / "releases" / "0.1.0" / "claim.json").read_bytes())
    claim = Claimed.decode(canonical({**values, "release": "0.9.9"}))

    def publish(digest: str) -> None:
        about = {"root": quorum.root, "claim": claim, "note": "x", "now": NOW}
        cast = make_vote(PUBLISH, "cat", **about, published=(digest, "b" * 40, "v1"))
        (folder / vote_name(cast)).write_bytes(sign_vote(cast, quorum.signers["cat"]))

    publish("cd" * 32)
    version = proposal(quorum)
    (folder / "claim.json").write_bytes(canonical({**values, "release": "0.9.9"}))
    if twice:
        publish(claim.sha256)
    for each in (version, proposal(quorum)):
        refuse_or_not(quorum, each, "ben")


def test_a_name_that_was_taken_in_the_agreed_log_stops_no_restart(quorum: Members) -> None:
    """cat's publication came first, and enough members cosigned that: so it was."""
    found = list(entries(quorum))
    vote(quorum, PUBLISH, "cat", published=("ab" * 32, "b" * 40, "v1"))
    log(quorum)
    rival = next(entry for entry in entries(quorum) if b"ab" * 32 in entry)
    shutil.rmtree(quorum.attestations / "log")
    write_log(quorum, [rival, *found])
    with raises_code(FoundFalse, "name-taken"):
        refuse_or_not(quorum, quorum.file.successor(restart=named([rival, *found])))
    checkpoint = head([rival, *found], quorum.root)
    for name in ("ben", "cat"):
        note = cosign(checkpoint, name, quorum.signers[name], NOW)
        quorum.write(cosignature_file(name), note.encode())
    refuse_or_not(quorum, quorum.file.successor(restart=named([rival, *found])))


def test_a_late_commitment_is_not_made_early(tmp_path: Path) -> None:
    """cat commits to what everybody knows, and proposes a log in which its commitment comes first."""
    quorum = made(tmp_path, commitments=1)
    vote(quorum, COMMIT, "cat", note="ab" * 32)
    found = list(entries(quorum))
    version = proposal(quorum)
    late = next(entry for entry in entries(quorum) if b'"commit"' in entry and entry not in found)
    refuse_or_not(quorum, version)
    shutil.rmtree(quorum.attestations / "log")
    write_log(quorum, [late, *found])
    with raises_code(FoundFalse, "bad-log"):
        refuse_or_not(quorum, quorum.file.successor(restart=named([late, *found])))


def test_a_commitment_that_this_member_cosigned_in_time_stays_in_time(tmp_path: Path) -> None:
    """Who cosigned that part of the log knows its order; who did not, does not sign."""
    quorum = Members.make(tmp_path / "desk", THREE, threshold=2, commitments=1, kinds=("ed25519",))
    quorum.claim(report_json())
    shutil.rmtree(quorum.attestations / "releases" / "0.1.0")
    vote(quorum, COMMIT, "ann", note="ab" * 32)
    log(quorum, "ann", "ben")
    quorum.claim(report_json())
    for name in THREE:
        quorum.sign(name, report_json())
    log(quorum, "ann", "ben")
    lose(quorum, len(entries(quorum)))
    version = proposal(quorum)
    refuse_or_not(quorum, version, "ann")
    with raises_code(FoundFalse, "bad-log"):
        refuse_or_not(quorum, version, "cat")


def test_each_log_has_its_own_heads(quorum: Members) -> None:
    """A member that cosigned seven entries of the lost log cosigns seven of the new one, and only once."""
    before = lose(quorum, 1)
    begin_again(quorum)
    log(quorum)
    size = len(entries(quorum))
    assert size > len(before) - 1
    other = [*entries(quorum)[:-2], entries(quorum)[-1], entries(quorum)[-2]]
    for name, content in made_log(other, quorum.root, quorum.file.sha256).items():
        quorum.write(name, content)
    for path in quorum.attestations.glob("log/cosignature.*"):
        path.unlink()
    with raises_code(FoundFalse, "already-signed"):
        log(quorum, "ann", append=False)


# --- the file and the memory ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f'[restart]\nsize = 0\nroot = "{"ab" * 32}"',
        f'[restart]\nsize = 1000001\nroot = "{"ab" * 32}"',
        f'[restart]\nsize = true\nroot = "{"ab" * 32}"',
        f'[restart]\nsize = 1\nroot = "{"AB" * 32}"',
        '[restart]\nsize = 1\nroot = ""',
        "[restart]\nsize = 1",
        f'[restart]\nsize = 1\nroot = "{"ab" * 32}"\nmore = 1',
        "[[restart]]\nsize = 1",
    ],
)
def test_a_restart_point_has_one_form(quorum: Members, text: str) -> None:
    """A size of at least one entry, and a root."""
    good = quorum.file.successor(restart=RestartPoint(1, "ab" * 32)).raw.decode()
    section = good[good.index("[restart]") : good.index("[[members]]")]
    assert MembersFile.decode(good.encode()).restart == RestartPoint(1, "ab" * 32)
    with pytest.raises(Rejected):
        MembersFile.decode(good.replace(section, text + "\n\n").encode())


def test_version_1_begins_nothing_again(quorum: Members) -> None:
    """There was no log before it."""
    with pytest.raises(Rejected, match="before version 1"):
        MembersFile.make(
            version=1,
            previous=None,
            expires=quorum.file.expires,
            round="1",
            threshold=2,
            dissent="block",
            members=quorum.file.members,
            restart=RestartPoint(1, "ab" * 32),
        )


def test_a_memory_goes_on_to_the_later_log_and_not_back(quorum: Members) -> None:
    """Of two processes that end in any order; a smaller log that was begun again comes after a larger one."""
    old = Seen(1, quorum.file.sha256, SeenLog(45, "aa" * 32), agreed=True)
    new = Seen(2, "bb" * 32, SeenLog(20, "cc" * 32, "bb" * 32, 2), agreed=True)
    for order in ((old, new), (new, old)):
        quorum.roots.path.unlink(missing_ok=True)
        for seen in order:
            quorum.roots.remember(quorum.root, seen)
        assert Roots(quorum.roots.path.parent).seen(quorum.root) == new
