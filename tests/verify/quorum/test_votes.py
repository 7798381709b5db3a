"""Reviews and revocations, and the proof bundle."""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import Rejected
from coattest.files import Folder
from coattest.strictjson import canonical
from coattest_verify.quorum.bundle import MAX_LISTING, make_bundle, read_bundle
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.statements.votes import (
    REVIEW,
    REVOKE,
    make_vote,
    payload_type,
    sign_vote,
    vote_name,
)
from coattest_verify.signatures import dsse
from support.raises import raises_code
from support.verify.members import NOW, Members, report_json, sentences


def vote(quorum: Members, kind: str, member: str, *, key_of: str | None = None, **changes: Any) -> Path:
    assert quorum.claimed is not None
    values = {"root": quorum.root, "claim": quorum.claimed, "note": "CVE-2026-1", "now": NOW, **changes}
    made = make_vote(kind, member, **values)
    return quorum.write(vote_name(made), sign_vote(made, quorum.signers[key_of or member]))


def test_a_revoked_release_is_not_decided(three: Members) -> None:
    """One member's signed revocation stops the release, and says why."""
    vote(three, REVOKE, "buyer-3")
    assert sentences(three.decide().reasons) == ("buyer-3: revoked this release: CVE-2026-1",)


def test_a_revocation_is_about_one_source(three: Members) -> None:
    """Revoking another source, or under another quorum's root, changes nothing."""
    assert three.claimed is not None
    vote(three, REVOKE, "buyer-3", root=b"\1" * 32)
    assert three.decide().decision is not None
    claimed = three.claimed
    vote(three, REVOKE, "buyer-3", claim=three.claim(report_json(source="next")))
    three.claim(report_json())
    assert three.claimed == claimed
    assert three.decide().decision is not None


def test_a_revocation_outlives_the_members_version(three: Members) -> None:
    """A new version of quorum.toml does not silently bring a revoked release back."""
    vote(three, REVOKE, "buyer-3")
    three.install(three.file.successor(round="2"), ["buyer-1", "buyer-2"])
    three.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        three.sign(name, report_json())
    assert sentences(three.decide().reasons) == ("buyer-3: revoked this release: CVE-2026-1",)


def test_a_forged_revocation_does_not_count(three: Members) -> None:
    """Nobody revokes in another's name, and the forged file is named."""
    path = vote(three, REVOKE, "buyer-3", key_of="buyer-1")
    outcome = three.decide()
    assert outcome.decision is not None
    assert [(item.where, item.code) for item in outcome.refused] == [(path.name, "bad-signature")]


def test_a_review_never_serves_as_a_revocation(three: Members) -> None:
    """The payload type is signed: renaming a review to a revocation does not make it one."""
    path = vote(three, REVIEW, "buyer-3")
    path.rename(path.with_name(path.name.replace("review", "revoke")))
    outcome = three.decide()
    assert outcome.decision is not None
    assert [item.code for item in outcome.refused] == ["payload-type"]


def test_the_revocation_threshold(tmp_path: Path) -> None:
    """Where two must revoke, one revocation is a warning."""
    quorum = Members.make(
        tmp_path, ["buyer-1", "buyer-2", "buyer-3"], threshold=2, dissent="report", revoke_threshold=2
    )
    quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report_json())
    vote(quorum, REVOKE, "buyer-3")
    outcome = quorum.decide()
    assert outcome.decision is not None
    assert sentences(outcome.warnings) == ("buyer-3: revoked this release: CVE-2026-1",)
    vote(quorum, REVOKE, "buyer-1")
    assert quorum.decide().decision is None


def test_required_reviews(tmp_path: Path) -> None:
    """Where reviews are required, a rebuild alone does not suffice, and one member reviews once."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2"], reviews=2)
    quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report_json())
    path = vote(quorum, REVIEW, "buyer-1", note="read all of it")
    path.with_name(path.name.replace(".dsse", ".again.dsse")).write_bytes(path.read_bytes())
    assert sentences(quorum.decide().reasons) == ("quorum.toml: 1 of 2 members reviewed the source",)
    vote(quorum, REVIEW, "buyer-2", note="the lock's difference")
    assert quorum.decide().decision is not None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 10_000, b" " * 20_000, b'{"payloadType": 1, "payloadType": 1}']
)
def test_hostile_votes_are_refused_alone(three: Members, content: bytes) -> None:
    """A bad vote neither crashes nor blocks."""
    three.write("revoke.buyer-3.x.dsse.json", content)
    three.write("review.\x1b.dsse.json", content)
    outcome = three.decide()
    assert outcome.decision is not None
    assert len(outcome.refused) == 2


def test_a_vote_with_an_unknown_field_is_refused(three: Members) -> None:
    """A signed vote of another form does not count."""
    path = vote(three, REVOKE, "buyer-3")
    envelope = dsse.DsseEnvelope.decode(path.read_bytes(), payload_type(REVOKE))
    payload = json.loads(envelope.payload)
    payload["scope"] = "everything"
    changed = dsse.sign_envelope(three.signers["buyer-3"], payload_type(REVOKE), json.dumps(payload).encode())
    path.write_bytes(changed.encode())
    assert [item.code for item in three.decide().refused] == ["unknown-field"]


# --- the proof bundle ---------------------------------------------------------------------------------


def bundled(quorum: Members) -> bytes:
    with Folder(quorum.attestations) as folder:
        return make_bundle(folder, now=NOW)


def from_bundle(quorum: Members, data: bytes, **changes: Any) -> Outcome:
    bundle = read_bundle(data)
    options: dict[str, Any] = {"root": quorum.root, "seen": None, "profile": "aws", "now": bundle.made}
    return decide_from(bundle.files, **{**options, **changes})


def test_a_bundle_gives_the_same_outcome_as_the_folder(three: Members) -> None:
    """Who agrees, who dissents and the digest are the same, with no folder at all."""
    three.sign("buyer-3", report_json("other"), outcome="dissent")
    data = bundled(three)
    assert from_bundle(three, data).to_json() == three.decide().to_json()


def test_a_bundle_with_an_invented_root_is_refused(three: Members, tmp_path: Path) -> None:
    """A bundle that is consistent in itself decides nothing under the root that the reader brings."""
    invented = Members.make(tmp_path / "attacker", ["buyer-1", "buyer-2"])
    invented.claim(report_json("evil"))
    for name in invented.signers:
        invented.sign(name, report_json("evil"))
    data = bundled(invented)
    assert from_bundle(invented, data).decision is not None
    outcome = from_bundle(three, data)
    assert "nothing here has the pinned root" in sentences(outcome.reasons)[0]


def test_a_bundle_still_decides_after_the_members_file_expired(three: Members) -> None:
    """As of the time it was made a bundle decides for ever; as of now it ends with the members file."""
    data = bundled(three)
    assert from_bundle(three, data).decision is not None
    assert from_bundle(three, data, now=NOW + timedelta(days=3650)).decision is None


def packed(content: bytes, form: int = lzma.FORMAT_XZ) -> str:
    """Content as a bundle has it."""
    return base64.b64encode(lzma.compress(content, form)).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "coattest-bundle/v2"},
        {"extra": 1},
        {"made": "yesterday"},
        {"made": "2026-02-31T00:00:00Z"},
        {"files": {}},
        {"files": {"../../etc/passwd": ""}},
        {"files": {"quorum.toml": "%"}},
        {"files": {"quorum.toml": 1}},
        {"files": {"quorum.toml": -1}},
        {"files": {"quorum.toml": True}},
        {"files": {"quorum.toml": 2**40}},
        {"files": {f"quorum.{number}.buyer-1.dsse.json": 2**23 for number in range(1, 40)}},
        {"files": []},
        {"content": ""},
        {"content": "%"},
        {"content": "é"},
        {"content": 1},
        {"content": packed(b"")},
        {"content": packed(b"x" * 2**20)},
        {"content": packed(b"x", lzma.FORMAT_ALONE)},
    ],
)
def test_hostile_bundles_are_refused(three: Members, change: dict[str, Any]) -> None:
    """A bundle of another form is refused as a whole."""
    with pytest.raises(Rejected):
        read_bundle(canonical({**json.loads(bundled(three)), **change}))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content + b"x",
        lambda content: content[:-1],
        lambda content: content + bytes(2**24),
    ],
)
def test_a_bundle_that_unpacks_to_more_or_less_is_refused(
    three: Members, spoil: Callable[[bytes], bytes]
) -> None:
    """What its files say together is what is there, and nothing is unpacked beyond it."""
    values = json.loads(bundled(three))
    content = lzma.decompress(base64.b64decode(values["content"]))
    with pytest.raises(Rejected, match="not as long as its files"):
        read_bundle(canonical({**values, "content": packed(spoil(content))}))
    doubled = base64.b64encode(base64.b64decode(values["content"]) * 2).decode()
    with pytest.raises(Rejected, match="not as long as its files"):
        read_bundle(canonical({**values, "content": doubled}))


@pytest.mark.parametrize("filler", [b"{},", b"1,", b'"",', b'"\\"",', b"[", b" "])
def test_what_lies_beside_a_bundles_content_is_not_read_at_any_length(three: Members, filler: bytes) -> None:
    """Read as JSON, 128 MiB took gigabytes and half a minute."""
    data = bundled(three)
    assert data.count(b'"files":{') == 1
    longer = data.replace(b'"files":{', b'"files":[' + filler * (MAX_LISTING // len(filler)) + b'],"files":{')
    with raises_code(Rejected, "too-large"):
        read_bundle(longer)


def test_a_bundle_begins_with_its_content(three: Members) -> None:
    """In another order nothing says where it ends before all is read."""
    values = json.loads(bundled(three))
    for data in (json.dumps(values).encode(), b'{"content":"' + values["content"].encode(), b"", b"{}"):
        with pytest.raises(Rejected, match="not a proof bundle"):
            read_bundle(data)
    twice = canonical(values)[:-1] + b',"content":"AAAA"}'
    with raises_code(Rejected, "duplicate-key"):
        read_bundle(twice)


@pytest.mark.parametrize(
    ("filler", "code", "said"),
    [
        (b"{},", "malformed", "more parts"),
        (b"1,", "malformed", "more parts"),
        (b'\\"', "malformed", "more parts"),
        (b"[],[", "too-deep", "nested deeper"),
        (b"[[", "too-deep", "nested deeper"),
    ],
)
def test_a_file_of_many_parts_is_refused_before_it_is_read(
    three: Members, filler: bytes, code: str, said: str
) -> None:
    """An envelope has few. Thirty such files of 4 MiB, 40 kB in a bundle, kept a verifier busy for 35 s."""
    name = "rebuild.buyer-1.x.intoto.json"
    three.write(name, b'{"signatures":[' + filler * 200)
    (finding,) = three.decide().refused
    assert (finding.where, finding.code) == (name, code)
    assert said in finding.detail
