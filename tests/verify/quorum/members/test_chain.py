"""From a pinned root to the members file in force."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.files import Folder
from coattest_verify.quorum.members.file import Member, MemberGroup, MembersFile
from coattest_verify.quorum.signing import pending
from coattest_verify.rebuild.answer import read_members
from coattest_verify.signatures import keys
from support.verify.members import EXPIRES, NOW, Members, report_json, sentences


@pytest.fixture
def pair(tmp_path: Path) -> Members:
    return Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"], threshold=2, dissent="report")


def agree(quorum: Members, *names: str) -> None:
    """Answer the claim under the quorum's current members file."""
    quorum.claim(report_json())
    for name in names:
        quorum.sign(name, report_json())


def test_version_1_needs_every_signature(pair: Members) -> None:
    """A threshold of signatures does not make a root: nobody is enrolled without its own word."""
    agree(pair, "buyer-1", "buyer-2")
    (pair.attestations / "quorum.1.buyer-3.dsse.json").unlink()
    assert sentences(pair.decide().reasons)[0].startswith("quorum.toml: version 1 is not signed by buyer-3")


def test_a_bundle_with_its_own_root_is_refused(pair: Members, tmp_path: Path) -> None:
    """Files that agree with each other but not with the pinned root decide nothing."""
    invented = Members.make(tmp_path / "attacker", ["buyer-1", "buyer-2", "buyer-3"], threshold=2)
    agree(invented, "buyer-1", "buyer-2", "buyer-3")
    invented.root = pair.root
    assert "nothing here has the pinned root" in sentences(invented.decide().reasons)[0]


def test_a_successor_with_both_thresholds_is_in_force(pair: Members) -> None:
    """Version 2 counts when the thresholds of 1 and of 2 signed it; agreement of its round does."""
    agree(pair, "buyer-1", "buyer-2")
    pair.install(pair.file.successor(round="2"), ["buyer-1", "buyer-3"])
    outcome = pair.decide()
    assert outcome.decision is None
    assert {item.code for item in outcome.refused} == {"wrong-round"}
    agree(pair, "buyer-1", "buyer-2")
    assert pair.decide().require().quorum_sha256 == pair.file.sha256


def test_too_few_signatures_on_a_successor(pair: Members) -> None:
    """One signature of two does not install version 2."""
    pair.install(pair.file.successor(threshold=1), ["buyer-1"])
    agree(pair, "buyer-1")
    assert "is version 2, which too few members signed" in sentences(pair.decide().reasons)[0]


def test_the_new_threshold_must_sign_too(pair: Members) -> None:
    """Raising the threshold to three needs three signatures, so that nobody locks itself out."""
    following = pair.file.successor(threshold=3)
    pair.install(following, ["buyer-1", "buyer-2"])
    assert "too few members signed" in sentences(pair.decide().reasons)[0]
    pair.countersign(following, "buyer-3")
    agree(pair, "buyer-1", "buyer-2", "buyer-3")
    assert pair.decide().decision is not None


def test_a_new_members_signature_does_not_count_for_the_old_threshold(pair: Members) -> None:
    """Strangers cannot vote themselves in: the old threshold counts old members only."""
    public = keys.generate_key(pair.folder / "keys" / "mallory")
    pair.signers["mallory"] = keys.load_signer(pair.folder / "keys" / "mallory")
    following = pair.file.successor(members=(*pair.file.members, Member("mallory", (public,))))
    pair.install(following, ["buyer-1", "mallory"])
    assert "too few members signed" in sentences(pair.decide().reasons)[0]


def test_a_rotated_key_signs_with_old_and_new(pair: Members) -> None:
    """After a rotation the old key's statements no longer count and the new key's do."""
    public = keys.generate_key(pair.folder / "keys" / "fresh")
    pair.signers["buyer-1"], old = keys.load_signer(pair.folder / "keys" / "fresh"), pair.signers["buyer-1"]
    others = tuple(item for item in pair.file.members if item.name != "buyer-1")
    pair.install(pair.file.successor(members=(Member("buyer-1", (public,)), *others)), ["buyer-2", "buyer-3"])
    agree(pair, "buyer-1", "buyer-2")
    assert pair.decide().decision is not None
    pair.signers["buyer-1"] = old
    agree(pair, "buyer-1")
    assert pair.decide().decision is None


def test_a_fully_signed_version_is_in_force_without_being_installed(pair: Members) -> None:
    """Who leaves quorum.toml 1 beside the signatures of version 2, or puts it back, changes nothing."""
    first, second = pair.file, pair.file.successor()
    pair.install(second, ["buyer-1", "buyer-2"])
    installed = pair.decide()
    pair.write("quorum.toml", first.raw)
    outcome = pair.decide()
    assert outcome.members is not None
    assert outcome.members.version == 2
    assert outcome.to_json() == installed.to_json()
    with Folder(pair.attestations) as folder:
        assert read_members(folder, pair.attestations) == second
        assert pending(folder).members == second


def test_rollback_below_the_highest_version_seen_is_refused(pair: Members) -> None:
    """Who removes version 2 with its signatures is caught by what the verifier remembers."""
    first = pair.file
    agree(pair, "buyer-1", "buyer-2")
    pair.install(first.successor(), ["buyer-1", "buyer-2"])
    pair.decide()
    for path in pair.attestations.glob("quorum.2.*"):
        path.unlink()
    pair.write("quorum.toml", first.raw)
    assert "is version 1, but version 2 was seen before" in sentences(pair.decide().reasons)[0]


def test_another_version_of_the_same_number_is_refused(pair: Members) -> None:
    """A second version 2 is refused by who saw the first, even after the first's signatures are gone."""
    first = pair.file
    pair.install(first.successor(), ["buyer-1", "buyer-2"])
    pair.decide()
    for path in pair.attestations.glob("quorum.2.*"):
        path.unlink()
    pair.install(first.successor(round="other"), ["buyer-1", "buyer-2"])
    assert "a different version 2 was seen before" in sentences(pair.decide().reasons)[0]


def test_a_fork_is_refused(pair: Members) -> None:
    """Two signed successors of one version decide nothing, whichever is installed."""
    first = pair.file
    other = first.successor(round="other")
    for name in ("buyer-1", "buyer-2"):
        pair.countersign(other, name)
    for path in pair.attestations.glob("quorum.2.*"):
        path.rename(path.with_name(path.name.replace(".dsse", ".other.dsse")))
    pair.install(first.successor(), ["buyer-2", "buyer-3"])
    assert "two signed files are version 2" in sentences(pair.decide().reasons)[0]


def test_a_successor_of_something_else_is_refused(pair: Members) -> None:
    """Version 2 must name the digest of version 1."""
    first = pair.file
    stranger = MembersFile.decode(first.raw + b"\n").successor()
    pair.install(stranger, ["buyer-1", "buyer-2", "buyer-3"])
    assert "too few members signed" in sentences(pair.decide().reasons)[0]


def test_an_expired_members_file_decides_nothing(pair: Members) -> None:
    """The decision ends with the members file."""
    agree(pair, "buyer-1", "buyer-2")
    assert pair.decide(now=EXPIRES - timedelta(seconds=1)).members is not None
    assert "expired at 2030-01-01T00:00:00Z" in sentences(pair.decide(now=EXPIRES).reasons)[0]


def test_no_root_and_none_remembered_says_what_to_do(pair: Members) -> None:
    """Without a pin there is no decision, and the error says where a root comes from."""
    agree(pair, "buyer-1", "buyer-2")
    root, pair.root = pair.root, None  # type: ignore[assignment]
    with pytest.raises(UsageError, match="--root sha256:HEX"):
        pair.decide()
    pair.root = root
    pair.decide()
    pair.root = None  # type: ignore[assignment]
    assert pair.decide().decision is not None


def test_a_damaged_memory_is_not_an_empty_one(pair: Members) -> None:
    """Rollback protection does not switch itself off: unreadable roots are an error."""
    agree(pair, "buyer-1", "buyer-2")
    pair.decide()
    pair.roots.path.write_text("{}")
    with pytest.raises(EnvironmentFailure, match=re.escape("roots.json")):
        pair.decide()


BAD_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("threshold-0", {"threshold": 0}),
    ("threshold-negative", {"threshold": -1}),
    ("threshold-above-members", {"threshold": 4}),
    ("round-with-a-line-break", {"round": "1\n2"}),
    ("dissent-ignored", {"dissent": "ignore"}),
    ("age-0", {"max_age_days": 0}),
    ("version-0", {"version": 0}),
    ("version-2-without-previous", {"version": 2}),
    ("version-1-with-previous", {"previous": "sha256:" + "0" * 64}),
    ("previous-upper-case", {"version": 2, "previous": "sha256:" + "A" * 64}),
    ("local-time", {"expires": datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1)))}),
    ("group-of-strangers", {"groups": (MemberGroup("g", ("nobody",), 1),)}),
    ("group-threshold-0", {"groups": (MemberGroup("g", ("buyer-1",), 0),)}),
    ("group-of-itself", {"groups": (MemberGroup("g", ("g",), 1),)}),
    ("group-twice-the-same", {"groups": (MemberGroup("g", ("buyer-1", "buyer-1"), 1),)}),
    ("group-with-a-members-name", {"groups": (MemberGroup("buyer-1", ("buyer-2",), 1),)}),
]


@pytest.mark.parametrize("values", [pytest.param(values, id=name) for name, values in BAD_VALUES])
def test_values_that_make_no_sense_are_refused(pair: Members, values: dict[str, Any]) -> None:
    """A members file with a value out of its range does not parse."""
    base: dict[str, Any] = {
        "version": 1,
        "previous": None,
        "expires": EXPIRES,
        "round": "1",
        "threshold": 2,
        "dissent": "block",
        "members": pair.file.members,
    }
    with pytest.raises(Rejected) as caught:
        MembersFile.make(**{**base, **values})
    assert caught.value.code.startswith("members-")


def test_one_key_under_two_names_is_refused(pair: Members) -> None:
    """One person's key as two members would be one person counted twice."""
    first, second, third = pair.file.members
    with pytest.raises(Rejected, match="have the same key") as caught:
        pair.file.successor(members=(first, second, Member("buyer-3", first.keys)))
    assert caught.value.code == "members-same-key"
    with pytest.raises(Rejected, match="have the same key") as caught:
        pair.file.successor(members=(Member("buyer-1", first.keys * 2), second, third))
    assert caught.value.code == "members-same-key"


HOSTILE_TOML = {
    "empty": b"",
    "not-utf-8": b"\xff\xfe",
    "not-toml": b"{}",
    "duplicate-key": b'format = "coattest-quorum/v1"\nformat = "coattest-quorum/v1"\n',
    "deeply-nested": b"a = " + b"[" * 5000 + b"]" * 5000,
    "deep-tables": b"[" + b".".join([b"a"] * 5000) + b"]\n",
    "huge": b"#" * (1024 * 1024 + 1),
    "huge-integer": b"version = " + b"9" * 10000,
    "impossible-date": b"expires = 2030-02-31T00:00:00Z\n",
}


@pytest.mark.parametrize("name", HOSTILE_TOML)
def test_hostile_policies_are_refused_in_one_line(pair: Members, name: str) -> None:
    """Whatever stands in quorum.toml, the outcome is a reason and not a crash."""
    pair.write("quorum.toml", HOSTILE_TOML[name])
    outcome = pair.decide(now=NOW)
    assert outcome.decision is None
    assert len(sentences(outcome.reasons)) == 1


def test_unknown_fields_are_refused(pair: Members) -> None:
    """A field that this version does not know may be a rule that it would not keep."""
    with pytest.raises(Rejected, match="unknown field") as caught:
        MembersFile.decode(b"strict = true\n" + pair.file.raw)
    assert caught.value.code == "members-unknown-field"


def test_true_is_not_a_threshold(pair: Members) -> None:
    """A boolean is not the integer 1."""
    with pytest.raises(Rejected, match="threshold") as caught:
        MembersFile.decode(pair.file.raw.replace(b"threshold = 2", b"threshold = true"))
    assert caught.value.code == "members-malformed"
