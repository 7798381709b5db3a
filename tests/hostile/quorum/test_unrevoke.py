"""A revocation is taken back by who signed it, with the key that signed it, and by nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.files import Folder
from coattest_verify.quorum.bundle import make_bundle
from coattest_verify.quorum.statements.votes import (
    REVOKE,
    UNREVOKE,
    Vote,
    make_vote,
    payload_type,
    sign_vote,
    vote_name,
)
from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from support.verify.members import NOW, Members, report_json
from support.verify.signing_world import SigningWorld


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Decided by buyer-1 and buyer-2; each member has two keys."""
    return decided(tmp_path)


def decided(folder: Path) -> Members:
    made = Members.make(folder, ["buyer-1", "buyer-2", "buyer-3"], threshold=2, dissent="report", keys_each=2)
    made.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        made.sign(name, report_json())
    return made


def revoke(quorum: Members, *, key_of: str = "buyer-3", **changes: Any) -> Vote:
    assert quorum.claimed is not None
    values = {"root": quorum.root, "claim": quorum.claimed, "note": "CVE-1", "now": NOW, **changes}
    vote = make_vote(REVOKE, "buyer-3", **values)
    quorum.write(vote_name(vote), sign_vote(vote, quorum.signers[key_of]))
    return vote


def undo(
    quorum: Members, vote: Vote, *, member: str = "buyer-3", key_of: str | None = None, **changes: Any
) -> Path:
    values: dict[str, Any] = {"root": quorum.root, "claim": vote, "undoes": vote.signed_sha256, **changes}
    made = make_vote(UNREVOKE, member, note="a false alarm", now=NOW, **values)
    return quorum.write(vote_name(made), sign_vote(made, quorum.signers[key_of or member]))


def codes(quorum: Members) -> tuple[Sequence[str], Sequence[str]]:
    outcome = quorum.decide()
    assert (outcome.decision is None) == bool(outcome.reasons)
    return [item.code for item in outcome.reasons], [item.code for item in outcome.warnings]


def test_its_signer_takes_it_back_and_the_decision_says_so(quorum: Members) -> None:
    """Revoked, undone, decided again with a warning; without the undoing's file it is revoked again."""
    vote = revoke(quorum)
    assert codes(quorum) == (["revoked"], [])
    path = undo(quorum, vote)
    assert codes(quorum) == ([], ["undone"])
    path.unlink()
    assert codes(quorum) == (["revoked"], [])


@pytest.mark.parametrize("key_of", ["buyer-1", "buyer-2", "buyer-3/2"])
def test_no_other_key_takes_it_back(quorum: Members, key_of: str) -> None:
    """Neither another member's key, nor another key of the same member: that one may be the stolen one."""
    undo(quorum, revoke(quorum), key_of=key_of)
    assert codes(quorum)[0] == ["revoked"]


def test_another_member_takes_back_its_own_only(quorum: Members) -> None:
    """A well-signed undoing by buyer-1 of buyer-3's revocation undoes nothing."""
    undo(quorum, revoke(quorum), member="buyer-1")
    assert codes(quorum)[0] == ["revoked"]


def test_a_key_that_was_removed_takes_nothing_back(quorum: Members) -> None:
    """After a rotation the stolen key's undoing does not count, whenever it says that it was made."""
    stays = revoke(quorum, key_of="buyer-3/2")
    undo(quorum, stays, key_of="buyer-3")
    first = quorum.file
    kept = tuple(
        member if member.name != "buyer-3" else type(member)(member.name, member.keys[1:])
        for member in first.members
    )
    quorum.install(first.successor(members=kept), ["buyer-1", "buyer-2"])
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report_json())
    assert "revoked" in codes(quorum)[0]


def test_an_undoing_does_not_reach_a_later_revocation(quorum: Members) -> None:
    """Replayed against the next revocation of the same source by the same member, it is nothing."""
    first = revoke(quorum)
    undo(quorum, first)
    second = revoke(quorum, now=NOW + timedelta(seconds=1))
    assert vote_name(first) != vote_name(second)
    assert codes(quorum) == (["revoked"], [])
    undo(quorum, second)
    assert codes(quorum) == ([], ["undone"])


def test_an_undone_revocation_does_not_come_back_in_another_file(quorum: Members) -> None:
    """Under another name, or the same signature in other JSON, it is still the revocation that was undone."""
    vote = revoke(quorum)
    undo(quorum, vote)
    path = quorum.released / vote_name(vote)
    quorum.write("revoke.buyer-3.again.dsse.json", path.read_bytes())
    quorum.write(
        "revoke.buyer-3.spaced.dsse.json", json.dumps(json.loads(path.read_bytes()), indent=3).encode()
    )
    assert codes(quorum) == ([], ["undone"])


def test_an_undoing_names_one_digest_of_one_quorum(quorum: Members, tmp_path: Path) -> None:
    """Of a digest that nobody signed, or made under another root, it undoes nothing here."""
    vote = revoke(quorum)
    undo(quorum, vote, undoes="ab" * 32)
    assert codes(quorum)[0] == ["revoked"]
    other = decided(tmp_path / "other")
    elsewhere = undo(other, vote)
    quorum.write(elsewhere.name, elsewhere.read_bytes())
    assert codes(quorum)[0] == ["revoked"]


def test_a_revocation_never_serves_as_an_undoing(quorum: Members) -> None:
    """The payload type is signed: renamed, it is refused by name."""
    vote = revoke(quorum)
    content = (quorum.released / vote_name(vote)).read_bytes()
    quorum.write("unrevoke.buyer-3.x.dsse.json", content)
    outcome = quorum.decide()
    assert [(item.where, item.code) for item in outcome.refused] == [
        ("unrevoke.buyer-3.x.dsse.json", "payload-type")
    ]
    assert outcome.decision is None


def test_a_payload_in_other_json_is_no_vote(quorum: Members) -> None:
    """One vote, one digest: the member's own signature on spaced JSON is not read."""
    vote = revoke(quorum)
    spaced = json.dumps(json.loads(vote.payload), indent=1).encode()
    kind = payload_type(REVOKE)
    quorum.write(vote_name(vote), sign_envelope(quorum.signers["buyer-3"], kind, spaced).encode())
    outcome = quorum.decide()
    assert [item.code for item in outcome.refused] == ["malformed"]
    assert DsseEnvelope.decode((quorum.released / vote_name(vote)).read_bytes(), kind).payload == spaced


# --- the commands ---------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> SigningWorld:
    found = SigningWorld(tmp_path)
    found.claim()
    for name in ("buyer-1", "buyer-2"):
        found.quorum.sign(name, found.report)
    return found


def command(world: SigningWorld, verb: str, *more: str) -> Any:
    argv = ("release", verb, *world.who("buyer-3"), *world.root, "--reason", "because", *more, "--json")
    done = world.desk.run(*argv)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_the_command_shows_and_takes_back_one_revocation(world: SigningWorld) -> None:
    """It is shown what is taken back, wants a yes, and finds nothing the second time."""
    code, revoked, _ = command(world, "revoke", "--expect", world.claimed)
    assert (code, revoked["revoked"]) == (0, True)
    assert world.quorum.decide().decision is None
    code, asked, errors = command(world, "unrevoke")
    assert (code, asked["code"]) == (2, "not-confirmed")
    assert "because" in errors
    code, other, _ = command(world, "unrevoke", "--expect", f"sha256:{'0' * 64}")
    assert (code, other["code"]) == (1, "not-expected")
    code, undone, _ = command(world, "unrevoke", "--expect", f"sha256:{revoked['sha256']}")
    assert (code, undone["revoked"]) == (0, False)
    assert world.quorum.decide().decision is not None
    code, nothing, _ = command(world, "unrevoke", "--expect", f"sha256:{revoked['sha256']}")
    assert (code, nothing["code"]) == (2, "already-undone")


def test_an_older_release_is_revoked_by_its_bundle_or_its_claim(world: SigningWorld, tmp_path: Path) -> None:
    """The folder is about the next release by now; what is revoked, and who agreed, comes from the bundle."""
    old, expect = world.quorum.claimed, world.claimed
    with Folder(world.attestations) as folder:
        (tmp_path / "proof.json").write_bytes(make_bundle(folder, now=NOW))
    (tmp_path / "old.json").write_bytes((world.released / "claim.json").read_bytes())
    world.claim(seed="next", release="0.2.0", source="next")
    for name in ("buyer-1", "buyer-2"):
        world.quorum.sign(name, world.report)
    shutil.rmtree(world.attestations / "releases" / "0.1.0")
    for file in ("proof.json", "old.json"):
        argv = ("--claim", str(tmp_path / file), "--release", "0.1.0", "--expect", expect)
        code, made, errors = command(world, "revoke", *argv)
        assert (code, made["release"]) == (0, "0.1.0"), errors
        assert ("buyer-2 at 2026-11-23T11:00:00Z" in errors) == (file == "proof.json")
        envelope = DsseEnvelope.decode(Path(made["file"]).read_bytes(), payload_type(REVOKE))
        payload = json.loads(envelope.payload)
        assert old is not None
        assert payload["source"] == {"tree_sha256": old.tree_sha256, "lock_sha256": old.lock_sha256}
    assert world.quorum.decide().decision is not None
    shutil.copy(tmp_path / "old.json", world.attestations / "releases" / "0.1.0" / "claim.json")
    assert any(item.code == "revoked" for item in world.quorum.decide(release="0.1.0").reasons)


def test_a_bundle_of_another_quorum_is_not_shown(world: SigningWorld, tmp_path: Path) -> None:
    """Who agreed is only said of members that lead back to the pinned root."""
    invented = decided(tmp_path / "invented")
    with Folder(invented.attestations) as folder:
        (tmp_path / "proof.json").write_bytes(make_bundle(folder, now=NOW))
    assert invented.claimed is not None
    argv = ("--claim", str(tmp_path / "proof.json"), "--expect", f"sha256:{invented.claimed.sha256}")
    code, refused, _ = command(world, "revoke", *argv)
    assert (code, refused["code"]) == (2, "bad-claim")


def test_of_several_revocations_expect_says_which(world: SigningWorld) -> None:
    """Two sources revoked: the command lists both, and undoes the one that is named."""
    _, first, _ = command(world, "revoke", "--expect", world.claimed)
    world.claim(source="next")
    _, second, _ = command(world, "revoke", "--expect", world.claimed)
    code, asked, _ = command(world, "unrevoke")
    assert code == 2
    assert first["sha256"] in asked["hint"]
    assert second["sha256"] in asked["hint"]
    code, _, errors = command(world, "unrevoke", "--expect", f"sha256:{first['sha256']}")
    assert code == 0, errors
    assert {item.code for item in world.quorum.decide().reasons} >= {"revoked"}
