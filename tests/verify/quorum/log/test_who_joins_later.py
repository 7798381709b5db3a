"""Who joins when statements were signed again, over earlier ones, can cosign the log from its beginning."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import FoundFalse
from coattest.files import Folder
from coattest_verify.quorum.members.file import Member
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.rebuild.answer import sign_answer
from coattest_verify.signatures import keys
from coattest_verify.signatures.journal import SignatureJournal
from support.raises import raises_code
from support.verify.logs import sign_log_as
from support.verify.members import Members, report_json

THREE = ("ann", "ben", "cat")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine remembers, apart for each test."""
    monkeypatch.setenv("COATTEST_STATE", str(tmp_path / "state"))


def quorum_of(folder: Path, commitments: int) -> Members:
    """Three members with a claim, of whom two decide and change."""
    rules: dict[str, Any] = {"threshold": 2, "dissent": "report", "kinds": ("ed25519",)}
    quorum = Members.make(folder / "desk", THREE, commitments=commitments, **rules)
    quorum.claim(report_json())
    return quorum


def answer(quorum: Members, name: str, hours: int) -> None:
    """A member's statement, written as ``verify sign-pcrs`` writes it: over an earlier one."""
    made = quorum.statement(name, report_json(), age=timedelta(hours=hours))
    with Folder(quorum.attestations) as folder:
        files = ReleaseFiles(folder, "0.1.0")
        sign_answer(
            quorum.attestations, files, made, quorum.file, quorum.signers[name], journal=SignatureJournal()
        )


def log(quorum: Members, *names: str) -> None:
    """Each appends what is there and cosigns."""
    for name in names:
        sign_log_as(quorum, name)


def enroll_dan(quorum: Members, folder: Path, **values: Any) -> None:
    """The next version, with one member more."""
    public = keys.generate_key(folder / "dan", "ed25519")
    quorum.signers["dan"] = keys.load_signer(folder / "dan")
    members = (*quorum.file.members, Member("dan", (public,)))
    quorum.install(quorum.file.successor(members=members, **values), [*THREE, "dan"])


@pytest.mark.parametrize("commitments", [0, 2])
@pytest.mark.parametrize("round_", ["1", "2"])
def test_a_newcomer_cosigns_after_everybody_signed_again(
    tmp_path: Path, commitments: int, round_: str
) -> None:
    """The entries of the first statements have no file any more; enough members had cosigned them."""
    quorum = quorum_of(tmp_path, commitments)
    for name in THREE:
        answer(quorum, name, 2)
    log(quorum, *THREE)
    enroll_dan(quorum, tmp_path, round=round_)
    for name in THREE:
        answer(quorum, name, 1)
    log(quorum, *THREE, "dan")
    assert (quorum.attestations / "log" / "cosignature.dan").exists()


def test_a_new_round_stops_no_log_that_few_cosigned(tmp_path: Path) -> None:
    """Statements of the round in force stand in the place of earlier ones."""
    quorum = quorum_of(tmp_path, 0)
    for name in THREE:
        answer(quorum, name, 2)
    log(quorum, "ann")
    enroll_dan(quorum, tmp_path, round="2")
    for name in THREE:
        answer(quorum, name, 1)
    log(quorum, *THREE, "dan")
    assert (quorum.attestations / "log" / "cosignature.dan").exists()


def test_a_dissent_is_not_replaced_by_a_later_statement(tmp_path: Path) -> None:
    """However many cosigned it: who joins later looks for its file."""
    quorum = quorum_of(tmp_path, 0)
    path = quorum.sign("cat", report_json(), outcome="dissent", reason="bad", age=timedelta(hours=2))
    log(quorum, *THREE)
    enroll_dan(quorum, tmp_path)
    path.unlink()
    answer(quorum, "cat", 1)
    with raises_code(FoundFalse, "removed-entry"):
        log(quorum, "dan")
