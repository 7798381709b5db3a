"""Commit, then reveal; and the diversity of hosts."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import UsageError
from coattest_verify.quorum.diversity import distinct
from coattest_verify.quorum.statements.salt import CommitmentSecret, new_secret, read_secret, write_secret
from coattest_verify.quorum.statements.statement import RebuildReport
from coattest_verify.quorum.statements.votes import COMMIT, make_vote, sign_vote, vote_name
from coattest_verify.rebuild.hosts import host_name, pseudonym
from support.verify.history.commits import History
from support.verify.history.shared import SharedHistory, codes
from support.verify.logs import sign_log
from support.verify.members import NOW, Members, report_json, sentences

NAMES = ("buyer-1", "buyer-2", "buyer-3")


class Round:
    """A quorum of three, of whom two decide and must have committed; nothing is published yet."""

    def __init__(self, folder: Path, **values: object) -> None:
        rules: dict[str, Any] = {"threshold": 2, "dissent": "report", "commitments": 2, **values}
        self.quorum = Members.make(folder, NAMES, **rules)
        self.openings: dict[str, CommitmentSecret] = {}

    def commit(self, name: str, seed: str = "good", *, word: str = "") -> Path:
        report = RebuildReport.read(report_json(seed))
        opening = self.openings.setdefault(name, new_secret(name, self.quorum.root))
        if word:
            opening = new_secret(name, self.quorum.root)
        vote = make_vote(
            COMMIT, name, root=self.quorum.root, claim=report, note=opening.digest(report), now=NOW
        )
        place = f"commit.{name}.{word}.dsse.json" if word else vote_name(vote)
        return self.quorum.write(place, sign_vote(vote, self.quorum.signers[name]))

    def log(self, *names: str) -> None:
        for name in names:
            signer = self.quorum.signers[name]
            sign_log(self.quorum.attestations, self.quorum.root, name, signer, seen=None, now=NOW)

    def reveal(self, name: str, salt: str | None = None, **options: Any) -> None:
        self.quorum.sign(name, report_json(), salt=salt or self.openings[name].salt, **options)

    def reasons(self) -> list[str]:
        return [item.detail for item in self.quorum.decide().reasons]


def lacks(count: int) -> list[str]:
    """The one reason when so many committed in time."""
    return [f"{count} of 2 agreeing members committed before any result was known"]


@pytest.fixture
def game(tmp_path: Path) -> Round:
    """buyer-1 and buyer-2 committed, and everybody cosigned that, before the claim was there."""
    game = Round(tmp_path)
    for name in ("buyer-1", "buyer-2"):
        game.commit(name)
    game.log(*NAMES)
    game.quorum.claim(report_json())
    return game


def test_committed_results_decide(game: Round) -> None:
    """Commitments that were logged before the claim, and statements that open them, are a decision."""
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    game.log("buyer-1", "buyer-2")
    assert game.quorum.decide().agree == ("buyer-1", "buyer-2")
    assert game.quorum.decide().decision is not None


def test_a_newcomer_and_a_delayed_file_count_toward_the_threshold(tmp_path: Path) -> None:
    """k committed; the others agree without, and are needed for the threshold."""
    game = Round(tmp_path, threshold=3)
    for name in ("buyer-1", "buyer-2"):
        game.commit(name)
    game.log(*NAMES)
    game.quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    game.log(*NAMES)
    assert game.quorum.decide().decision is None
    game.quorum.sign("buyer-3", report_json())
    assert game.quorum.decide().require().agreed == NAMES


def test_who_copies_an_answer_has_not_committed(game: Round) -> None:
    """late-commit.sh: a commitment that was logged after the claim is too late, whatever its date says."""
    game.log("buyer-1", "buyer-2")
    game.commit("buyer-3")
    game.log(*NAMES)
    for name in ("buyer-1", "buyer-3"):
        game.reveal(name)
    assert game.reasons() == lacks(1)
    assert game.quorum.decide().exit_code == 3


def test_a_claim_and_a_commitment_in_one_append_is_too_late(tmp_path: Path) -> None:
    """Whoever appends both at once knew the result: claims stand first."""
    game = Round(tmp_path)
    game.commit("buyer-1")
    game.log(*NAMES)
    game.quorum.claim(report_json())
    game.commit("buyer-2")
    game.log(*NAMES)
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    assert game.reasons() == lacks(1)


def test_a_commitment_after_anothers_answer_is_too_late(tmp_path: Path) -> None:
    """Without a claim the first logged statement ends the time for commitments too."""
    game = Round(tmp_path)
    game.commit("buyer-1")
    game.log(*NAMES)
    game.quorum.claim(report_json())
    (claim := game.quorum.released / "claim.json").unlink()
    game.reveal("buyer-1")
    game.log(*NAMES)
    game.commit("buyer-3")
    game.log(*NAMES)
    game.quorum.claim(report_json())
    assert claim.exists()
    game.reveal("buyer-3")
    assert game.reasons() == lacks(1)


def test_who_could_not_build_reveals_nothing(tmp_path: Path) -> None:
    """It shows no digest, so it does not end the time for commitments: nobody is locked out by it."""
    game = Round(tmp_path)
    game.quorum.claim(report_json())
    (game.quorum.released / "claim.json").unlink()
    game.quorum.sign("buyer-3", None, outcome="could-not-build", reason="no disk")
    game.log(*NAMES)
    for name in ("buyer-1", "buyer-2"):
        game.commit(name)
    game.log(*NAMES)
    game.quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    assert game.quorum.decide().decision is not None


@pytest.mark.parametrize("source", ["source", "another"])
def test_a_reclaim_of_the_same_bytes_gives_no_second_time_to_commit(tmp_path: Path, source: str) -> None:
    """A result that one release showed is known under every other name, and from another source too."""
    game = Round(tmp_path)
    game.quorum.claim(report_json(release="0.0.9", source=source))
    game.log(*NAMES)
    game.quorum.claimed = None
    for name in ("buyer-1", "buyer-2"):
        game.commit(name)
    game.log(*NAMES)
    game.quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    assert game.reasons() == lacks(0)


def test_guessing_by_many_commitments_ends_after_four(tmp_path: Path) -> None:
    """The fifth commitment of a member to one source does not count, the fourth does."""
    for guesses, expected in ((3, []), (4, lacks(1))):
        game = Round(tmp_path / str(guesses))
        for number in range(guesses):
            game.commit("buyer-1", f"guess {number}", word=f"guess-{number}")
            game.log("buyer-1")
        for name in ("buyer-1", "buyer-2"):
            game.commit(name)
        game.log(*NAMES)
        game.quorum.claim(report_json())
        for name in ("buyer-1", "buyer-2"):
            game.reveal(name)
        assert game.reasons() == expected


def test_another_result_than_the_committed_one_does_not_count(game: Round, tmp_path: Path) -> None:
    """Who committed to something else cannot open it as the claim's result."""
    other = Round(tmp_path / "other")
    other.commit("buyer-1", "other")
    other.commit("buyer-2")
    other.log(*NAMES)
    other.quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        other.reveal(name)
    assert other.reasons() == lacks(1)
    game.reveal("buyer-1", salt="ab" * 32)
    game.reveal("buyer-2")
    assert game.reasons() == lacks(1)


def test_anothers_commitment_is_of_no_use(game: Round) -> None:
    """A commitment binds its member: buyer-3 cannot take over buyer-1's with buyer-1's salt."""
    copied = game.quorum.released / vote_name(
        make_vote(
            COMMIT,
            "buyer-1",
            root=game.quorum.root,
            claim=RebuildReport.read(report_json()),
            note="x",
            now=NOW,
        )
    )
    (copied.with_name(copied.name.replace("buyer-1", "buyer-3"))).write_bytes(copied.read_bytes())
    game.log(*NAMES)
    game.reveal("buyer-1")
    game.reveal("buyer-3", salt=game.openings["buyer-1"].salt)
    assert game.reasons() == lacks(1)
    refused = {item.where: item.code for item in game.quorum.decide().refused}
    assert refused == {copied.name.replace("buyer-1", "buyer-3"): "bad-signature"}


def test_one_cosigner_does_not_order_the_log(tmp_path: Path) -> None:
    """The order of a log that fewer cosigned than change the quorum proves nothing: one can write any."""
    game = Round(tmp_path)
    for name in ("buyer-1", "buyer-2"):
        game.commit(name)
    game.log("buyer-1")
    game.quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    assert game.reasons() == lacks(0)
    game.log("buyer-2", "buyer-3")
    assert game.reasons() == []


def test_a_commitment_outlives_rounds_and_versions(game: Round) -> None:
    """It binds the quorum's root, so a change of the members file between the two turns costs nothing."""
    game.quorum.install(game.quorum.file.successor(round="2"), ["buyer-1", "buyer-2"])
    game.log(*NAMES)
    for name in ("buyer-1", "buyer-2"):
        game.reveal(name)
    assert game.quorum.decide().decision is not None


def test_nothing_is_merged_that_shows_a_result_too_early(tmp_path: Path) -> None:
    """A member that reveals first, to lock the others out, is refused where changes are judged."""
    game = Round(tmp_path)
    game.commit("buyer-1")
    game.log(*NAMES)
    shared = SharedHistory(game.quorum, History(tmp_path / "repository"), "")
    shared.again()
    game.quorum.claim(report_json())
    claim = game.quorum.released / "claim.json"
    assert codes(shared.lint()[1]) == ["commitments-missing"]
    held = claim.read_bytes()
    claim.unlink()
    shared.rebuilt("buyer-3", report_json())
    assert "commitments-missing" in codes(shared.lint()[1])
    for path in game.quorum.released.glob("rebuild.*"):
        path.unlink()
    game.commit("buyer-2")
    shared.again()
    claim.write_bytes(held)
    assert codes(shared.lint()[1]) == ["commitments-missing"]
    claim.unlink()
    game.log(*NAMES)
    shared.again()
    claim.write_bytes(held)
    assert shared.lint()[0] == 0
    shared.again()
    shared.rebuilt("buyer-3", report_json())
    assert shared.lint()[0] == 0


def test_a_decision_ends_with_the_statements_that_opened_commitments(game: Round) -> None:
    """A younger answer without a commitment does not carry it on."""
    game.reveal("buyer-1", age=timedelta(days=60))
    game.reveal("buyer-2")
    game.quorum.sign("buyer-3", report_json())
    assert game.quorum.decide().require().expires == NOW + timedelta(days=30)


def test_a_dissent_needs_no_commitment(game: Round) -> None:
    """Who objects is heard, committed or not."""
    game.quorum.sign("buyer-3", report_json("other"), outcome="dissent")
    assert [answer.member for answer in game.quorum.decide().dissent] == ["buyer-3"]


def test_a_commitment_shows_nothing(game: Round) -> None:
    """Two commitments to one result differ, and neither holds a digest of it."""
    result = report_json()["profiles"]["aws"]
    secrets = [*result["pcrs"].values(), result["image"]["sha256"], result["image"]["sha384"]]
    files = sorted(game.quorum.released.glob("commit.*"))
    payloads = [base64.b64decode(json.loads(path.read_bytes())["payload"]).decode() for path in files]
    assert len({json.loads(payload)["note"] for payload in payloads}) == 2
    assert not any(secret in payload for payload in payloads for secret in secrets)
    one, two = (new_secret("buyer-1", game.quorum.root) for _ in range(2))
    report = RebuildReport.read(report_json())
    assert one.digest(report) != two.digest(report)
    assert one.digest(report) == one.digest(RebuildReport.read(report_json()))


def test_the_salt_is_kept_for_its_member_and_quorum(game: Round, tmp_path: Path) -> None:
    """commitment.json is readable by its owner only, and of no use to another member or quorum."""
    root = game.quorum.root
    opening = new_secret("buyer-1", root)
    path = write_secret(tmp_path, opening)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(tmp_path, "buyer-1", root) == opening
    assert read_secret(tmp_path, "buyer-2", root) is None
    assert read_secret(tmp_path, "buyer-1", bytes(32)) is None
    path.write_bytes(b"{}")
    with pytest.raises(UsageError, match="format"):
        read_secret(tmp_path, "buyer-1", root)


# --- hosts --------------------------------------------------------------------------------------------


def test_hosts_are_counted_where_the_members_file_says_so(tmp_path: Path) -> None:
    """Two members on one machine are one host, and a member that states none brings none."""
    quorum = Members.make(tmp_path, NAMES, threshold=2, dissent="report", hosts=2)
    quorum.claim(report_json())
    quorum.sign("buyer-1", report_json(), host="shared")
    quorum.sign("buyer-2", report_json(), host="shared")
    assert sentences(quorum.decide().reasons) == ("quorum.toml: 1 of 2 different hosts",)
    quorum.sign("buyer-3", report_json(), host=None)
    assert sentences(quorum.decide().reasons) == ("quorum.toml: 1 of 2 different hosts",)
    quorum.sign("buyer-3", report_json(), host="attic", age=timedelta(minutes=1))
    assert quorum.decide().decision is not None


def test_a_pseudonym_tells_machines_apart_and_quorums_too(three: Members, tmp_path: Path) -> None:
    """One machine has one pseudonym in a round and another in the next; the identity itself stays at home."""
    identity = tmp_path / "machine-id"
    identity.write_text("0123456789abcdef0123456789abcdef\n")
    here = pseudonym(identity, three.file)
    assert here is not None
    assert here == host_name(None, three.file, identity)
    assert here != pseudonym(identity, three.file.successor(round="2"))
    assert "0123456789abcdef" not in here
    identity.write_text("uninitialized\n")
    assert pseudonym(identity, three.file) is None
    assert pseudonym(tmp_path / "absent", three.file) is None
    assert host_name("attic-1", three.file, identity) == "attic-1"
    with pytest.raises(UsageError, match="host"):
        host_name("Attic\n", three.file, identity)


offers = st.dictionaries(st.sampled_from("abcde"), st.sets(st.sampled_from("12345"), max_size=3), max_size=5)


@given(found=offers, name=st.sampled_from("abcde"), value=st.sampled_from("12345"), enough=st.integers(1, 5))
def test_one_more_offer_never_makes_less_diversity(
    found: dict[str, set[str]], name: str, value: str, enough: int
) -> None:
    """The count of different hosts is monotonic, and it is what trying every assignment gives."""
    more = {**found, name: found.get(name, set()) | {value}}
    assert distinct(found, enough) <= distinct(more, enough)
    assert distinct(found, enough) == min(enough, _brute(list(found.values()), frozenset()))


def _brute(rest: Sequence[set[str]], used: frozenset[str]) -> int:
    if not rest:
        return 0
    options = [1 + _brute(rest[1:], used | {value}) for value in rest[0] - used]
    return max([_brute(rest[1:], used), *options])
