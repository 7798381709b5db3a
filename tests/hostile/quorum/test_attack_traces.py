"""What a host without a key, removed members or a split quorum can try, step by step, and where it ends."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import FoundFalse
from coattest.files import Folder
from coattest.strictjson import canonical
from coattest_verify.quorum.log.entries import SeenLog
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.chain import Seen
from coattest_verify.quorum.signing import candidates
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from coattest_verify.signatures import keys
from support.raises import raises_code
from support.verify.history.commits import History
from support.verify.history.shared import SharedHistory, codes
from support.verify.logs import sign_log_as, write_log
from support.verify.members import NOW, Members, hex_digest, report_json
from support.verify.signing_world import SigningWorld

THREE = ("buyer-1", "buyer-2", "buyer-3")
SEVEN = ("ann", "ben", "cat", "dan", "eve", "fay", "gus")


@pytest.fixture
def agreed(tmp_path: Path) -> Members:
    """Three members who agree on release 0.1.0, under "block", and a log that all cosigned."""
    quorum = Members.make(tmp_path / "desk", THREE, threshold=2, dissent="block")
    quorum.claim(report_json())
    for name in THREE:
        quorum.sign(name, report_json())
    for name in THREE:
        cosign(quorum, name)
    return quorum


def cosign(quorum: Members, name: str, seen: Seen | None = None) -> None:
    """One member appends what is there and cosigns."""
    sign_log_as(quorum, name, seen=seen)


def invent(quorum: Members, kind: str, member: str | None, facts: dict[str, str]) -> None:
    """What the host does without any key: an entry of its own, in a log that fits together."""
    with Folder(quorum.attestations) as folder:
        log = read_quorum_log(folder, quorum.root, quorum.file)
    entry = canonical({"kind": kind, "sha256": "0" * 64, "member": member, "facts": facts})
    entries = [*(log.entries if log else ()), entry]
    write_log(quorum, entries)


def about(quorum: Members, release: str, outcome: str) -> dict[str, str]:
    """The facts of a statement's entry."""
    return {
        "outcome": outcome,
        "quorum": quorum.file.sha256,
        "round": quorum.file.round,
        "release": release,
        "architecture": "x86_64",
        "time": "2026-11-23T11:00:00Z",
    }


def source(name: str) -> dict[str, str]:
    """The facts of a revocation's entry."""
    return {
        "release": "0.2.0",
        "tree_sha256": hex_digest(f"tree {name}", 256),
        "lock_sha256": hex_digest("lock", 256),
    }


INVENTED: dict[str, Any] = {
    "a revocation of the release": lambda quorum: ("revoke", "buyer-2", source("source")),
    "a revocation of the next release": lambda quorum: ("revoke", "buyer-2", source("next")),
    "a dissent from the release": lambda quorum: ("rebuild", "buyer-3", about(quorum, "0.1.0", "dissent")),
    "a dissent from the next release": lambda quorum: (
        "rebuild",
        "buyer-3",
        about(quorum, "0.2.0", "dissent"),
    ),
}


@pytest.mark.parametrize("what", INVENTED)
def test_an_invented_objection_gets_no_cosignature(agreed: Members, what: str) -> None:
    """log_invented.py: nobody cosigns what no member signed, about a release that is there or is to come."""
    kind, member, facts = INVENTED[what](agreed)
    invent(agreed, kind, member, facts)
    for name in THREE:
        with raises_code(FoundFalse, "removed-entry"):
            cosign(agreed, name)


def test_a_file_that_the_host_made_up_is_no_file_of_an_entry(agreed: Members) -> None:
    """A file of the entry's digest helps nothing when the member did not sign it."""
    kind, member, facts = INVENTED["a revocation of the release"](agreed)
    invent(agreed, kind, member, facts)
    agreed.write("revoke.buyer-2.invented.dsse.json", b"{}")
    with raises_code(FoundFalse, "removed-entry"):
        cosign(agreed, "buyer-1")


def test_a_real_revocation_is_cosigned_after_its_key_was_replaced(agreed: Members, tmp_path: Path) -> None:
    """Honest members are not locked out: the key was its member's when the file was logged."""
    assert agreed.claimed is not None
    vote = make_vote(REVOKE, "buyer-2", root=agreed.root, claim=agreed.claimed, note="bad", now=NOW)
    agreed.write(vote_name(vote), sign_vote(vote, agreed.signers["buyer-2"]))
    cosign(agreed, "buyer-1")
    public = keys.generate_key(tmp_path / "new", "ed25519")
    renewed = [
        type(member)(member.name, (public,)) if member.name == "buyer-2" else member
        for member in agreed.file.members
    ]
    agreed.install(agreed.file.successor(members=tuple(renewed)), ["buyer-1", "buyer-2", "buyer-3"])
    cosign(agreed, "buyer-3")


def test_what_a_machine_cosigned_before_does_not_lock_it_out(agreed: Members) -> None:
    """A file that is removed later is the decision's matter; only what is new to a machine is looked up."""
    assert agreed.claimed is not None
    vote = make_vote(REVOKE, "buyer-2", root=agreed.root, claim=agreed.claimed, note="bad", now=NOW)
    path = agreed.write(vote_name(vote), sign_vote(vote, agreed.signers["buyer-2"]))
    cosign(agreed, "buyer-1")
    with Folder(agreed.attestations) as folder:
        log = read_quorum_log(folder, agreed.root, agreed.file)
    assert log is not None
    seen = Seen(1, agreed.file.sha256, SeenLog(len(log.entries), log.checkpoint.root.hex()))
    path.unlink()
    with raises_code(FoundFalse, "removed-entry"):
        cosign(agreed, "buyer-3")
    cosign(agreed, "buyer-1", seen)
    assert {reason.code for reason in agreed.decide().reasons} == {"removed-entry"}


def test_a_proposal_that_cannot_be_read_keeps_nobody_from_its_key(agreed: Members) -> None:
    """A remote signer is looked up in every members file that is there; one hostile file stops no turn."""
    agreed.write("quorum.next.toml", b"members = [")
    with Folder(agreed.attestations) as folder:
        assert candidates(folder, "buyer-1") == agreed.file.members[0].keys


@pytest.mark.parametrize("what", [*INVENTED, "a claim", "an agreement of who dissented"])
def test_an_invented_entry_is_not_merged(agreed: Members, tmp_path: Path, what: str) -> None:
    """verify lint-change recomputes every entry that is new from its file, whatever it says."""
    shared = SharedHistory(agreed, History(tmp_path / "repository"), "")
    shared.base = shared.history.commit(shared.files)
    if what in INVENTED:
        kind, member, facts = INVENTED[what](agreed)
    elif what == "a claim":
        facts = {name: about(agreed, "0.2.0", "")[name] for name in ("quorum", "round", "release")}
        kind, member, facts = "claim", None, {**facts, "architecture": "x86_64"}
    else:
        kind, member, facts = "rebuild", "buyer-3", about(agreed, "0.1.0", "agree")
    invent(agreed, kind, member, facts)
    code, found = shared.lint()
    assert code == 1
    assert "removed-entry" in codes(found)


def test_a_split_of_three_three_and_one_ends(tmp_path: Path) -> None:
    """Seven members sign three versions 2. One gives its signature up for another, which is in force then.

    The signature that it gave up, which the host kept, brings nothing back.
    """
    quorum = Members.make(tmp_path / "desk", SEVEN, threshold=4, dissent="report", kinds=("ed25519",))
    quorum.claim(report_json())
    versions = [quorum.file.successor(round=name) for name in ("one", "two", "three")]
    for names, version in zip((SEVEN[:3], SEVEN[3:6], SEVEN[6:]), versions, strict=True):
        for name in names:
            quorum.countersign(version, name)
    before = quorum.decide()
    assert before.members is not None
    assert before.members.version == 1
    kept = (quorum.attestations / "quorum.2.gus.dsse.json").read_bytes()
    quorum.countersign(versions[0], "gus")
    quorum.write("quorum.2.gus.kept.dsse.json", kept)
    after = quorum.decide()
    assert after.members is not None
    assert after.members.sha256 == versions[0].sha256


def test_a_majority_of_removed_members_decides_nothing(tmp_path: Path) -> None:
    """Four of seven who were removed sign another version 2: no verifier follows it, a fresh one neither."""
    quorum = Members.make(tmp_path / "desk", SEVEN, threshold=2, dissent="report", kinds=("ed25519",))
    first = quorum.file
    stay = tuple(member for member in first.members if member.name in SEVEN[4:])
    quorum.install(first.successor(members=stay, threshold=2), SEVEN)
    quorum.claim(report_json())
    for name in SEVEN[4:6]:
        quorum.sign(name, report_json())
    assert quorum.decide().decision is not None
    gone = tuple(member for member in first.members if member.name in SEVEN[:4])
    theirs = first.successor(members=gone, threshold=2)
    for name in SEVEN[:4]:
        envelope = (quorum.attestations / f"quorum.2.{name}.dsse.json").rename(
            quorum.attestations / f"quorum.2.{name}.first.dsse.json"
        )
        assert envelope.exists()
        quorum.countersign(theirs, name)
    evil = report_json("evil")
    quorum.claim(evil)
    quorum.file = theirs
    for name in SEVEN[:2]:
        quorum.sign(name, evil)
    remembering = quorum.decide()
    assert remembering.decision is None
    assert remembering.members is not None
    assert [member.name for member in remembering.members.members] == list(SEVEN[4:])
    quorum.roots.path.unlink()
    outcome = quorum.decide()
    assert outcome.decision is None
    assert [reason.code for reason in outcome.reasons] == ["members-fork"]


def test_an_expired_quorum_objects_and_is_renewed(tmp_path: Path) -> None:
    """Expiry stops decisions. Dissents, revocations and the next version are signed all the same."""
    present = datetime.now(timezone.utc)
    world = SigningWorld(tmp_path / "world", expires=(present - timedelta(days=1)).replace(microsecond=0))
    world.built()
    desk, quorum = world.desk, world.quorum
    done = desk.run("quorum", *world.root, "--attestations", str(world.attestations), "--json")
    assert [each["code"] for each in json.loads(done.stdout)["reasons"]] == ["members-expired"]
    expect = ("--expect", world.claimed)
    signed = desk.run(
        *("sign-pcrs", *world.who("buyer-1"), "--rebuild", "out", "--dissent", "--reason", "a back door"),
        *expect,
    )
    assert signed.returncode == 0, signed.stderr
    revoked = desk.run("release", "revoke", *world.who("buyer-2"), "--reason", "bad", *world.root, *expect)
    assert revoked.returncode == 0, revoked.stderr
    later = quorum.file.successor(expires=(present + timedelta(days=300)).replace(microsecond=0))
    digest = world.propose(later)
    for name in THREE[:2]:
        done = desk.run("members", "countersign", *world.who(name), "--expect", digest)
        assert done.returncode == 0, done.stderr
    outcome = quorum.decide(now=present)
    assert outcome.members is not None
    assert outcome.members.sha256 == later.sha256
    assert "revoked" in [reason.code for reason in outcome.reasons]
