"""Attacks that worked once: each was found by playing a buyer with one key, and each is refused now."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path

import pytest

from coattest.errors import FoundFalse, Rejected
from coattest.files import Folder
from coattest.strictjson import canonical, parse
from coattest_verify.quorum.log import checkpoint as notes
from coattest_verify.quorum.log.entries import parse_entry
from coattest_verify.quorum.log.examine import cosignature_file, head, read_quorum_log
from coattest_verify.quorum.members.file import Member, MemberGroup, MembersFile
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from support.verify.logs import sign_log_as, write_log
from support.verify.members import NOW, Members, claim_json, report_json, sentences


def log(quorum: Members, name: str) -> None:
    sign_log_as(quorum, name)


def revoke(quorum: Members, name: str) -> Path:
    assert quorum.claimed is not None
    vote = make_vote(REVOKE, name, root=quorum.root, claim=quorum.claimed, note="CVE-2026-1", now=NOW)
    return quorum.write(vote_name(vote), sign_vote(vote, quorum.signers[name]))


def test_brackets_in_strings_do_not_hide_depth() -> None:
    """Closing brackets inside a string do not pay for opening ones outside."""
    with pytest.raises(Rejected, match="nested deeper"):
        parse(b'["' + b"]" * 300 + b'",' + b"[" * 200 + b"]" * 200 + b"]")
    assert parse(b'["' + b"[" * 300 + b'\\"[",[]]') == ["[" * 300 + '"[', []]


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 2_000_000, b'\\"' * 2_000_000, b'"\\' * 2_000_000])
def test_quotes_without_end_are_read_once(text: bytes) -> None:
    """Megabytes of open strings are refused after one pass, not after one pass for each quote."""
    with pytest.raises(Rejected, match="not JSON"):
        parse(text)


def test_a_repeated_name_behind_many_others_is_found_in_one_pass() -> None:
    """Statements of megabytes whose last name appears twice are refused at once, not after hours."""
    names = b",".join(b'"%x":0' % index for index in range(350_000))
    with pytest.raises(Rejected, match="duplicate key 'last'"):
        parse(b"{" + names + b',"last":0,"last":0}')


def test_a_key_of_half_a_million_parts_is_not_parsed(three: Members) -> None:
    """A quorum.toml that would keep the TOML parser busy for hours is refused before it."""
    three.write("quorum.toml", b".".join([b"a"] * 500_000) + b" = 1\n")
    assert "the pinned root" not in sentences(three.decide().reasons)[0]
    with pytest.raises(Rejected, match="dots") as caught:
        MembersFile.decode(b".".join([b"a"] * 500_000) + b" = 1\n")
    assert caught.value.code == "members-too-deep"


def test_unsigned_versions_are_not_parsed(three: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates for the next version reach the TOML parser only behind the threshold's signatures."""
    for index in range(20):
        successor = three.file.successor(round=f"r{index}")
        three.countersign(successor, "buyer-3")
        (three.attestations / "quorum.2.buyer-3.dsse.json").rename(
            three.attestations / f"quorum.2.buyer-3.{index}.dsse.json"
        )
    decoded = []
    decode = MembersFile.decode
    monkeypatch.setattr(MembersFile, "decode", lambda data: decoded.append(data) or decode(data))
    assert three.decide().decision is not None
    assert set(decoded) == {three.file.raw}


def test_one_member_is_not_two_members_of_a_group(three: Members) -> None:
    """A member of a group and of a group within it would meet "two of" alone, so such groups are refused."""
    inner = MemberGroup("inner", ("buyer-1", "buyer-2"), 1)
    with pytest.raises(Rejected) as caught:
        three.file.successor(groups=(inner, MemberGroup("outer", ("buyer-1", "inner"), 2)))
    assert caught.value.code == "members-counted-twice"
    with pytest.raises(Rejected) as caught:
        three.file.successor(
            groups=(
                inner,
                MemberGroup("other", ("buyer-1", "buyer-3"), 1),
                MemberGroup("outer", ("inner", "other"), 2),
            )
        )
    assert caught.value.code == "members-counted-twice"
    three.file.successor(groups=(inner, MemberGroup("outer", ("buyer-3", "inner"), 2)))


def test_a_cosignature_after_the_last_year_is_no_crash(three: Members) -> None:
    """A cosigner that dates its line in the year 30,000 makes its own note bad, and nothing else."""
    log(three, "buyer-3")
    with Folder(three.attestations) as folder:
        found = read_quorum_log(folder, three.root, three.file)
    assert found is not None
    tree = found.checkpoint
    signer = three.signers["buyer-3"]
    seconds = 2**39
    signature = signer.sign(notes._message(tree, seconds))
    data = notes._key_id("buyer-3", signer.public) + seconds.to_bytes(8, "big") + signature
    line = f"\u2014 buyer-3 {base64.b64encode(data).decode()}\n"
    three.write(cosignature_file("buyer-3"), f"{tree.body}\n{line}".encode())
    outcome = three.decide()
    assert outcome.decision is not None
    assert sentences(outcome.warnings) == ("log/cosignature.buyer-3: the cosignature of buyer-3 is wrong",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("member", "\x1b[2Jbuyer-1"),
        ("member", "[red]buyer-1[/red]"),
        ("outcome", "dissent\x1b]0;agreed\x07"),
        ("outcome", "dissent\n"),
        ("outcome", "\u202etnessid"),
    ],
)
def test_log_entries_do_not_reach_a_terminal_as_commands(three: Members, field: str, value: str) -> None:
    """An entry with control characters, markup or invisible text makes the log bad, and is never shown."""
    about = {"outcome": "dissent", "round": "1"}
    entry = {"kind": "rebuild", "sha256": "ab" * 32, "member": "buyer-1", "about": about}
    (entry if field == "member" else about)[field] = value
    encoded = canonical(entry)
    with pytest.raises(Rejected):
        parse_entry(encoded)
    write_log(three, [encoded])
    note = notes.cosign(head([encoded], three.root), "buyer-3", three.signers["buyer-3"], NOW)
    three.write(cosignature_file("buyer-3"), note.encode())
    outcome = three.decide()
    assert outcome.decision is not None
    assert all(warning.isprintable() for warning in sentences(outcome.warnings))
    assert sentences(outcome.warnings)[0].startswith("log/checkpoint: entry")


@pytest.mark.parametrize("inner", ["log", "log/tile", "log/tile/entries"])
def test_the_log_is_not_written_through_a_link(three: Members, tmp_path: Path, inner: str) -> None:
    """A folder of the log that is a symbolic link does not lead the next signer out of attestations/."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = three.attestations / inner
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(FoundFalse) as caught:
        log(three, "buyer-1")
    assert caught.value.code == ("bad-log" if inner == "log" else "linked")
    assert list(elsewhere.iterdir()) == []


def test_a_planted_tile_does_not_survive_signing(three: Members) -> None:
    """A file, a link or a FIFO that waits where the log's next bundle goes is replaced, not believed."""
    planted = three.attestations / "log/tile/entries/000.p/3"
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"\0\1x")
    log(three, "buyer-1")
    assert sentences(three.decide().warnings) == ()


def test_a_removed_revocation_cannot_make_a_yes(blocking: Members) -> None:
    """Under "block" a revocation that was logged and then removed is named, and no decision comes of it."""
    path = revoke(blocking, "buyer-3")
    log(blocking, "buyer-1")
    path.unlink()
    assert sentences(blocking.decide().reasons) == (
        "log/checkpoint: buyer-3's revocation (log entry 4) was removed",
    )


def test_a_new_key_does_not_bring_a_revoked_release_back_unsaid(three: Members, tmp_path: Path) -> None:
    """A revocation by a key that was since replaced is shown as such until its member signs it again."""
    revoke(three, "buyer-3")
    fresh = Members.make(tmp_path / "fresh", ["buyer-3"])
    members = [party for party in three.file.members if party.name != "buyer-3"]
    replaced = Member("buyer-3", fresh.file.members[0].keys)
    three.install(three.file.successor(members=(*members, replaced)), ["buyer-1", "buyer-2"])
    for name in ("buyer-1", "buyer-2"):
        three.sign(name, report_json())
    outcome = three.decide()
    assert [item.code for item in outcome.refused] == ["old-key"]
    assert any(
        "buyer-3: revoked this release with a key" in warning for warning in sentences(outcome.warnings)
    )
    three.signers["buyer-3"] = fresh.signers["buyer-3"]
    revoke(three, "buyer-3")
    assert three.decide().decision is None


def test_a_members_second_route_takes_none_away(tmp_path: Path) -> None:
    """Where two routes are required, one more statement by another route never turns yes into no."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2"], routes=2)
    quorum.claim(report_json())
    container = {**report_json(), "route": "container"}
    quorum.sign("buyer-1", report_json(), age=timedelta(hours=2))
    quorum.sign("buyer-2", container)
    assert quorum.decide().decision is not None
    quorum.sign("buyer-1", container, name="rebuild.buyer-1.again.intoto.json")
    assert quorum.decide().decision is not None


def test_one_member_does_not_bring_two_routes(tmp_path: Path) -> None:
    """Two statements of one member by two routes are the diversity of one."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2"], threshold=1, dissent="report", routes=2)
    quorum.claim(report_json())
    quorum.sign("buyer-1", report_json())
    quorum.sign("buyer-1", {**report_json(), "route": "container"}, name="rebuild.buyer-1.again.intoto.json")
    assert sentences(quorum.decide().reasons) == ("quorum.toml: 1 of 2 different build routes",)


def test_no_single_member_says_what_was_taken_as_given(tmp_path: Path) -> None:
    """The first by name leaves the container image out; and nobody decides by a claim that names another."""
    quorum = Members.make(tmp_path, ["ann", "ben", "cat"], threshold=2, dissent="report")
    taken = {"kind": "container", "name": "config", "version": "1", "path": "config", "sha256": "c" * 64}
    given = {**report_json(), "inputs": [taken]}

    def claim(config: str) -> None:
        quorum.claim(given)
        next(quorum.released.glob("publish.*")).unlink()
        data = json.dumps(claim_json(given) | {"container": {"config": config}}).encode()
        quorum.write("claim.json", data)
        quorum.claimed = Claimed.decode(data)
        quorum.publish("ann")

    claim("d" * 64)
    quorum.sign("ann", report_json())
    quorum.sign("ben", given)
    quorum.sign("cat", given)
    assert "too-few-members" in {reason.code for reason in quorum.decide().reasons}
    claim("c" * 64)
    outcome = quorum.decide()
    assert outcome.require().container == "c" * 64
    assert outcome.agree == ("ben", "cat")
    assert [(item.where, item.code) for item in outcome.refused] == [("rebuild.ann.intoto.json", "mismatch")]
