"""Attacks by whoever appends to the log without a key: repeated, invented and misplaced entries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import FoundFalse
from coattest.files import Folder
from coattest.strictjson import canonical
from coattest_verify.quorum.decision import decide_from
from coattest_verify.quorum.log.checkpoint import cosign
from coattest_verify.quorum.log.entries import members_entry, parse_entry
from coattest_verify.quorum.log.examine import cosignature_file, head, read_quorum_log
from coattest_verify.quorum.members.file import MEMBERS_TYPE, Member, MembersFile
from coattest_verify.quorum.statements.salt import CommitmentSecret, new_secret
from coattest_verify.quorum.statements.statement import RebuildReport
from coattest_verify.quorum.statements.votes import COMMIT, make_vote, sign_vote, vote_name
from coattest_verify.signatures import dsse, keys
from support.raises import raises_code
from support.verify.history.commits import History
from support.verify.history.shared import SharedHistory, codes
from support.verify.logs import sign_log, write_log
from support.verify.members import NOW, Members, report_json

THREE = ("ann", "ben", "cat")


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Three members, of whom two decide, change and must have committed."""
    rules: dict[str, Any] = {"threshold": 2, "dissent": "report", "commitments": 2, "kinds": ("ed25519",)}
    return Members.make(tmp_path / "desk", THREE, **rules)


def log(quorum: Members, names: Sequence[str] = THREE, *, append: bool = True) -> None:
    """One appends, and each of them cosigns."""
    for name in names:
        signer = quorum.signers[name]
        sign_log(quorum.attestations, quorum.root, name, signer, seen=None, now=NOW, append=append)


def entries(quorum: Members) -> list[bytes]:
    """The log as it is."""
    with Folder(quorum.attestations) as folder:
        found = read_quorum_log(folder, quorum.root, quorum.file)
    return list(found.entries) if found else []


def commit(
    quorum: Members, name: str, word: str = "", seed: str = "good", now: datetime = NOW
) -> CommitmentSecret:
    """A member's commitment to the result of a seed, and what opens it."""
    report, opening = RebuildReport.read(report_json(seed)), new_secret(name, quorum.root)
    vote = make_vote(COMMIT, name, root=quorum.root, claim=report, note=opening.digest(report), now=now)
    place = f"commit.{name}.{word}.dsse.json" if word else vote_name(vote)
    quorum.write(place, sign_vote(vote, quorum.signers[name]))
    return opening


def revealed(quorum: Members, openings: dict[str, CommitmentSecret]) -> list[str]:
    """The codes of the reasons, once the claim and everybody's answer are there."""
    quorum.claim(report_json())
    for name, opening in openings.items():
        quorum.sign(name, report_json(), salt=opening.salt)
    return [reason.code for reason in quorum.decide().reasons]


# --- versions of the members file -------------------------------------------------------------------


def sign(quorum: Members, version: MembersFile, name: str, word: str = "") -> None:
    """A signature on a version; under a word of its own it stands in no other's place."""
    envelope = dsse.sign_envelope(quorum.signers[name], MEMBERS_TYPE, version.raw)
    quorum.write(f"quorum.{version.version}.{name}{word}.dsse.json", envelope.encode())


def test_the_entry_of_a_signature_that_was_given_up_brings_it_not_back(quorum: Members) -> None:
    """ann gave it up for another version; who appends writes its entry once more, and cat's completes it."""
    kept, chosen = (quorum.file.successor(round=name) for name in ("kept", "chosen"))
    sign(quorum, kept, "ann", ".kept")
    log(quorum)
    (old,) = entries(quorum)
    sign(quorum, chosen, "ann")
    log(quorum)
    sign(quorum, kept, "cat")
    log(quorum)
    honest = entries(quorum)
    write_log(quorum, [*honest, old])
    with raises_code(FoundFalse, "bad-log"):
        log(quorum, append=False)
    write_log(quorum, honest)
    sign(quorum, chosen, "ben")
    log(quorum)
    assert revealed(quorum, {}) != []
    with Folder(quorum.attestations) as folder:
        outcome = decide_from(folder, root=quorum.root, seen=None, profile="aws", now=NOW)
    assert outcome.members is not None
    assert outcome.members.sha256 == chosen.sha256


def test_the_keys_of_a_version_that_was_given_up_bring_it_not_back(quorum: Members, tmp_path: Path) -> None:
    """ann proposes a version with a key of its own for ben, and cat signs that and gives it up in the log.

    ann and that key are enough to cosign a longer log, in which cat signs again, with a key that nobody has.
    """
    keys.generate_key(tmp_path / "bens", "ed25519")
    bens = keys.load_signer(tmp_path / "bens")
    parties = [
        Member(each.name, (bens.public,)) if each.name == "ben" else each for each in quorum.file.members
    ]
    theirs = quorum.file.successor(members=tuple(parties))
    chosen = quorum.file.successor(round="chosen")
    sign(quorum, theirs, "cat", ".theirs")
    log(quorum)
    sign(quorum, chosen, "cat")
    log(quorum)
    sign(quorum, theirs, "ann", ".theirs")
    log(quorum, ["ann"])
    again = members_entry(theirs, "cat", "f" * 64)
    write_log(quorum, [*entries(quorum), again])
    forged = head(entries(quorum), quorum.root)
    for name, signer in (("ann", quorum.signers["ann"]), ("ben", bens)):
        quorum.write(cosignature_file(name), cosign(forged, name, signer, NOW).encode())
    revealed(quorum, {})
    with Folder(quorum.attestations) as folder:
        outcome = decide_from(folder, root=quorum.root, seen=None, profile="aws", now=NOW)
    assert outcome.members is not None
    assert outcome.members.sha256 == quorum.file.sha256


# --- commitments ------------------------------------------------------------------------------------


def test_invented_commitments_use_up_nobodys_four(quorum: Members) -> None:
    """Who appends puts four of its own making before ann's real one: nobody cosigns them."""
    openings = {name: commit(quorum, name) for name in ("ann", "ben")}
    report = RebuildReport.read(report_json())
    facts = {"release": "0.1.0", "tree_sha256": report.tree_sha256, "lock_sha256": report.lock_sha256}
    about: dict[str, Any] = {"kind": "commit", "member": "ann", "facts": facts}
    write_log(quorum, [canonical({**about, "sha256": f"{number:064x}"}) for number in range(4)])
    with raises_code(FoundFalse, "removed-entry"):
        log(quorum)
    write_log(quorum, [])
    log(quorum)
    assert revealed(quorum, openings) == []


def test_a_repeated_commitment_gets_no_cosignature(quorum: Members) -> None:
    """An honest append has each entry once."""
    commit(quorum, "ann")
    log(quorum)
    there = entries(quorum)
    write_log(quorum, [*there, *there])
    with raises_code(FoundFalse, "bad-log"):
        log(quorum, append=False)


def test_one_commitment_in_many_files_is_one(quorum: Members) -> None:
    """The host writes ann's signed commitment four times, in other white space: ann's next one counts."""
    commit(quorum, "ann", "wrong", seed="bad")
    signed = (quorum.released / "commit.ann.wrong.dsse.json").read_bytes()
    for number in range(4):
        quorum.write(f"commit.ann.copy-{number}.dsse.json", signed + b" " * (number + 1))
    log(quorum)
    openings = {name: commit(quorum, name) for name in ("ann", "ben")}
    log(quorum)
    assert revealed(quorum, openings) == []


def test_who_commits_beside_anothers_answer_has_copied_it(quorum: Members) -> None:
    """ann's answer lies there without an entry; ben commits to it, and one append has both."""
    openings = {"ann": commit(quorum, "ann")}
    log(quorum)
    quorum.claim(report_json())
    claim = quorum.released / "claim.json"
    claim.unlink()
    quorum.sign("ann", report_json(), salt=openings["ann"].salt)
    openings["ben"] = commit(quorum, "ben")
    log(quorum)
    assert revealed(quorum, openings) == ["too-few-commitments"]


@pytest.mark.parametrize("order", ["left out", "afterwards"])
def test_a_commitment_before_a_result_that_was_shown_is_not_merged(
    quorum: Members, tmp_path: Path, order: str
) -> None:
    """The claim was merged without an entry; cat, who copied it, appends its own commitment before it."""
    for name in ("ann", "ben"):
        commit(quorum, name)
    log(quorum)
    quorum.claim(report_json())
    shared = SharedHistory(quorum, History(tmp_path / "repository"), "")
    shared.again()
    before = entries(quorum)
    commit(quorum, "cat")
    log(quorum, ["cat"])
    assert shared.lint()[0] == 0
    (quorum.attestations / "log" / "cosignature.cat").unlink()
    fresh = entries(quorum)[len(before) :]
    assert [parse_entry(entry).kind for entry in fresh] == ["claim", "commit", "publish"]
    write_log(quorum, [*before, *(reversed(fresh) if order == "afterwards" else fresh[1:])])
    assert "bad-log" in codes(shared.lint()[1])


@pytest.mark.parametrize("logged", [True, False])
def test_a_commitment_in_the_log_is_not_replaced(quorum: Members, tmp_path: Path, logged: bool) -> None:
    """Its entry would have no file, and who has not cosigned it yet never could."""
    commit(quorum, "ann")
    if logged:
        log(quorum)
    shared = SharedHistory(quorum, History(tmp_path / "repository"), "")
    shared.again()
    commit(quorum, "ann", seed="other", now=NOW + timedelta(hours=1))
    assert codes(shared.lint()[1]) == (["file-replaced"] if logged else [])
