"""Files in ``attestations/`` from an attacker who holds one member's key, or none.

In every test buyer-1 and buyer-2 agree, and the hostile file is buyer-3's or nobody's: it is refused by name,
it does not count, and it does not keep the others from being counted.
"""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_toto.models.layout import Inspection, Layout

from coattest.files import Folder
from coattest.strictjson import canonical
from coattest_build.formats.registers import EMPTY_PCR2
from coattest_verify.quorum.links import filtered, link_name, link_of, metablock, sign_link
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements import provenance
from coattest_verify.signatures import dsse, keys
from coattest_verify.signatures.olpc import encode_olpc
from support.verify.members import Members, report_json, sentences

FILE = "rebuild.buyer-3.intoto.json"


def assert_only_refused(quorum: Members, reason: str, file: str = FILE) -> None:
    outcome = quorum.decide()
    assert outcome.decision is not None, outcome.reasons
    assert outcome.agree == ("buyer-1", "buyer-2")
    assert outcome.dissent == ()
    assert {item.where: item.code for item in outcome.refused} == {file: reason}


def signed(quorum: Members, payload: bytes, kind: str = provenance.PAYLOAD_TYPE) -> bytes:
    return dsse.sign_envelope(quorum.signers["buyer-3"], kind, payload).encode()


RAW_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "malformed"),
    "empty-object": (b"{}", "malformed"),
    "array": (b"[]", "malformed"),
    "null": (b"null", "malformed"),
    "not-utf-8": (b"\xff\xff", "malformed"),
    "utf-16": ('{"payload": ""}'.encode("utf-16"), "malformed"),
    "byte-order-mark": (b"\xef\xbb\xbf{}", "malformed"),
    "deeply-nested-arrays": (b"[" * 1_000_000, "too-deep"),
    "deeply-nested-objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too-deep"),
    "nan": (b'{"payload": NaN}', "malformed"),
    "float": (b'{"payload": 1e400}', "malformed"),
    "huge-integer": (b'{"payload": ' + b"9" * 100_000 + b"}", "malformed"),
    "lone-surrogate": (b'{"payload": "\\ud800"}', "malformed"),
    "duplicate-key": (b'{"payload": "", "payload": ""}', "duplicate-key"),
    "trailing-document": (b"{} {}", "malformed"),
    "yaml": (b"payload: x\n", "malformed"),
    "executable": (b"#!/bin/sh\ntouch pwned\n", "malformed"),
}


@pytest.mark.parametrize("name", RAW_FILES)
def test_a_file_that_is_not_a_statement_is_refused_alone(three: Members, name: str) -> None:
    """Truncated, empty, huge or deeply nested files neither crash nor block."""
    content, reason = RAW_FILES[name]
    three.write(FILE, content)
    assert_only_refused(three, reason)


def test_a_file_of_100_mb_is_refused_alone(three: Members) -> None:
    """Its size alone is a reason."""
    three.write(FILE, b" " * 100_000_000)
    assert_only_refused(three, "too-large")


def test_every_truncation_is_refused_alone(three: Members) -> None:
    """A statement cut anywhere never counts."""
    whole = three.sign("buyer-3", report_json()).read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 40):
        three.write(FILE, whole[:length])
        outcome = three.decide()
        assert outcome.agree == ("buyer-1", "buyer-2")
        assert outcome.decision is not None


def signed_block(quorum: Members, name: str, signed: dict[str, Any]) -> bytes:
    """A link or layout that a member signed well, whatever it says."""
    signer = quorum.signers[name]
    return metablock(signed, [{"keyid": signer.public.keyid, "sig": signer.sign(encode_olpc(signed)).hex()}])


def test_a_signed_layout_in_place_of_a_statement_is_never_executed(
    three: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layout with an inspection, signed by a buyer, runs nothing: neither as a statement nor as a link."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "pwned"
    layout = Layout(inspect=[Inspection(name="rebuild", run=["touch", str(marker)])])
    block = signed_block(three, "buyer-3", json.loads(layout.signable_bytes))
    three.write(FILE, block)
    three.write(link_name(three.signers["buyer-3"].public), block)
    assert_only_refused(three, "malformed")
    with Folder(three.attestations) as folder:
        assert filtered(ReleaseFiles(folder, "0.1.0"), three.file, three.decide().answers) == {}
    three.write(FILE, signed(three, canonical(json.loads(block)["signed"])))
    assert_only_refused(three, "statement-type")
    assert not marker.exists()


def test_another_payload_type_is_refused(three: Members) -> None:
    """A signature for another purpose does not serve as a statement."""
    payload = canonical(provenance.statement_to_json(three.statement("buyer-3", report_json())))
    three.write(FILE, signed(three, payload, "application/vnd.coattest.buyer-key+json"))
    assert_only_refused(three, "payload-type")


def test_a_changed_payload_type_breaks_the_signature(three: Members) -> None:
    """The payload type is signed, so relabelling an envelope does not help."""
    payload = canonical(provenance.statement_to_json(three.statement("buyer-3", report_json())))
    envelope = json.loads(signed(three, payload, "application/vnd.coattest.buyer-key+json"))
    envelope["payloadType"] = provenance.PAYLOAD_TYPE
    three.write(FILE, canonical(envelope))
    assert_only_refused(three, "bad-signature")


def test_a_stranger_is_refused(three: Members) -> None:
    """A statement named after somebody who is not a member does not count."""
    three.sign("buyer-3", report_json(), name="rebuild.mallory.intoto.json")
    assert_only_refused(three, "not-a-member", "rebuild.mallory.intoto.json")


def test_a_statement_in_anothers_name_is_refused(three: Members) -> None:
    """buyer-3 cannot sign that it speaks for buyer-2."""
    statement = three.statement("buyer-2", report_json("other"), outcome="dissent")
    three.write(FILE, provenance.sign_statement(statement, three.signers["buyer-3"]))
    assert_only_refused(three, "wrong-member")


def test_a_copied_statement_under_another_name_is_refused(three: Members) -> None:
    """buyer-1's statement under buyer-3's file name is not a third vote."""
    three.write(FILE, (three.released / "rebuild.buyer-1.intoto.json").read_bytes())
    assert_only_refused(three, "bad-signature")


def test_many_signatures_do_not_cost_many_verifications(three: Members) -> None:
    """An envelope with more signatures than anyone has keys is refused before any is checked."""
    envelope = json.loads(three.sign("buyer-3", report_json()).read_bytes())
    envelope["signatures"] *= 17
    three.write(FILE, canonical(envelope))
    assert_only_refused(three, "malformed")


@pytest.mark.parametrize("ids", ["none", "made-up", "one", "right"])
def test_a_file_costs_one_verification_a_key(
    tmp_path: Path, ids: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of files of 16 bad signatures each, by who has no key, took the verifier half an hour."""
    quorum = Members.make(tmp_path / "quorum", ["ann"], keys_each=4)
    quorum.claim(report_json())
    envelope = json.loads(quorum.sign("ann", report_json()).read_bytes())
    real = [keys.load_signer(quorum.key(name)).public.keyid for name in ("ann", "ann-key-2")]
    names = {"none": [], "made-up": [f"{n:x}" for n in range(16)], "one": real[:1], "right": real}[ids]
    bad = base64.b64encode(quorum.signers["ann"].sign(b"something else")).decode()
    envelope["signatures"] = [
        {"sig": bad, **({"keyid": names[n % len(names)]} if names else {})} for n in range(16)
    ]
    tried: list[bytes] = []
    verifies = keys.PublicKey.verifies

    def counted(key: keys.PublicKey, signature: bytes, message: bytes) -> bool:
        tried.append(signature)
        return verifies(key, signature, message)

    monkeypatch.setattr(keys.PublicKey, "verifies", counted)
    found = dsse.DsseEnvelope.decode(canonical(envelope), provenance.PAYLOAD_TYPE)
    assert found.signers(quorum.file.members[0].keys) == ()
    assert len(tried) <= 4


def test_several_keys_of_a_member_sign_one_file(tmp_path: Path) -> None:
    """Each is found under its id; a lone signature whatever its id says."""
    quorum = Members.make(tmp_path / "quorum", ["ann"], keys_each=4)
    known = quorum.file.members[0].keys
    made = [dsse.sign_envelope(signer, "text/plain", b"x") for signer in quorum.signers.values()]
    assert replace(made[0], signatures=tuple(each.signatures[0] for each in made)).signers(known) == known
    assert replace(made[2], signatures=(("another", made[2].signatures[0][1]),)).signers(known) == known[2:3]


@pytest.mark.parametrize(
    "name",
    [
        "rebuild.buyer-3.intoto.json.bak",
        "rebuild..intoto.json",
        "rebuild.BUYER-3.intoto.json",
        "rebuild.buyer-3.a b.intoto.json",
        "rebuild.buyer-3.\n.intoto.json",
        "rebuild.[red]buyer-3.intoto.json",
        "rebuild.\x1b[31mbuyer-3.intoto.json",
        "rebuild.-.intoto.json",
        "rebuild." + "b" * 180 + ".intoto.json",
    ],
)
def test_odd_names_are_refused(three: Members, name: str) -> None:
    """A file whose name is not a statement's does not count, however good its content."""
    three.sign("buyer-3", report_json(), name=name)
    assert_only_refused(three, "bad-name", name)


def test_a_name_that_is_not_unicode_is_refused(three: Members) -> None:
    """A file name that is no text is refused like any other odd name."""
    folder = os.fsencode(three.released)
    Path(os.fsdecode(folder + b"/rebuild.\xff.intoto.json")).write_bytes(b"{}")
    outcome = three.decide()
    assert outcome.decision is not None
    assert [item.code for item in outcome.refused] == ["bad-name"]
    assert json.dumps(outcome.to_json()).isascii()


def test_a_symbolic_link_is_not_followed(three: Members, tmp_path: Path) -> None:
    """A link to a good statement elsewhere, or to a secret, is refused."""
    three.sign("buyer-3", report_json()).rename(tmp_path / "elsewhere.json")
    (three.released / FILE).symlink_to(tmp_path / "elsewhere.json")
    assert_only_refused(three, "not-a-file")


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket-like-loop"])
def test_what_is_not_a_plain_file_is_refused(three: Members, kind: str) -> None:
    """A folder, a FIFO without a writer or a link to itself neither hangs nor crashes."""
    path = three.released / FILE
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    assert_only_refused(three, "not-a-file")


def test_a_linked_claim_or_members_file_is_not_followed(three: Members, tmp_path: Path) -> None:
    """claim.json and quorum.toml are not read through links either."""
    for name in ("claim.json", "quorum.toml"):
        path = (three.released if name == "claim.json" else three.attestations) / name
        content = path.read_bytes()
        (tmp_path / name).write_bytes(content)
        path.unlink()
        path.symlink_to(tmp_path / name)
        outcome = three.decide()
        assert outcome.decision is None
        assert "not a plain file" in sentences(outcome.reasons)[0]
        path.unlink()
        path.write_bytes(content)
    assert three.decide().decision is not None


# --- statements that are signed, but say something else than they should ---------------------------------

Change = Callable[[dict[str, Any]], None]


def internal(statement: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statement["predicate"]["buildDefinition"]["internalParameters"]
    return found


def external(statement: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statement["predicate"]["buildDefinition"]["externalParameters"]
    return found


def subject(statement: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in statement["subject"] if item["name"] == name)
    return found


def _md5(statement: dict[str, Any]) -> None:
    subject(statement, "aws/image.eif")["digest"] = {"md5": "0" * 32}


def _sha256_as_pcr(statement: dict[str, Any]) -> None:
    subject(statement, "aws/PCR0")["digest"] = {"sha384": "ab" * 32}


def _upper_case(statement: dict[str, Any]) -> None:
    digest = subject(statement, "aws/PCR0")["digest"]
    digest["sha384"] = digest["sha384"].upper()


def _extra_digest(statement: dict[str, Any]) -> None:
    subject(statement, "aws/PCR0")["digest"]["sha256"] = "0" * 64


SIGNED_CHANGES: dict[str, tuple[Change, str]] = {
    "md5": (_md5, "malformed"),
    "short-digest": (_sha256_as_pcr, "malformed"),
    "upper-case-hex": (_upper_case, "malformed"),
    "extra-digest": (_extra_digest, "unknown-field"),
    "no-subject": (lambda s: s.update(subject=[]), "malformed"),
    "a-register-is-missing": (lambda s: s["subject"].remove(subject(s, "aws/PCR2")), "malformed"),
    "a-foreign-subject": (
        lambda s: s["subject"].append({"name": "gcp/PCR0", "digest": {"sha384": "0" * 96}}),
        "unknown-field",
    ),
    "a-subject-twice": (lambda s: s["subject"].append(copy.deepcopy(s["subject"][0])), "duplicate-key"),
    "debug-pcr": (
        lambda s: subject(s, "aws/PCR0").update(digest={"sha384": "0" * 96}),
        "zero-pcr",
    ),
    "empty-pcr2": (
        lambda s: subject(s, "aws/PCR2").update(digest={"sha384": EMPTY_PCR2}),
        "empty-pcr2",
    ),
    "statement-v0.1": (
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        "statement-type",
    ),
    "another-predicate": (
        lambda s: s.update(predicateType="https://slsa.dev/provenance/v0.2"),
        "predicate-type",
    ),
    "another-build-type": (
        lambda s: s["predicate"]["buildDefinition"].update(buildType="https://example.test/make"),
        "build-type",
    ),
    "another-builder": (
        lambda s: s["predicate"]["runDetails"]["builder"].update(id="https://example.test/"),
        "malformed",
    ),
    "unknown-field-at-the-top": (lambda s: s.update(extra=1), "unknown-field"),
    "unknown-field-inside": (lambda s: internal(s).update(extra=1), "unknown-field"),
    "unknown-dependency-field": (
        lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"][0].update(uri="x"),
        "unknown-field",
    ),
    "dependency-is-a-number": (
        lambda s: s["predicate"]["buildDefinition"].update(resolvedDependencies=[1]),
        "malformed",
    ),
    "outcome-unknown": (lambda s: internal(s).update(outcome="maybe"), "malformed"),
    "outcome-is-a-list": (lambda s: internal(s).update(outcome=["agree"]), "malformed"),
    "kernel-compiled-as-text": (
        lambda s: internal(s)["kernel"].update(compiled_here="true"),
        "malformed",
    ),
    "size-as-boolean": (lambda s: internal(s)["images"]["aws"].update(size=True), "malformed"),
    "negative-size": (lambda s: internal(s)["images"]["aws"].update(size=-1), "malformed"),
    "no-time": (lambda s: s["predicate"]["runDetails"].pop("metadata"), "malformed"),
    "no-such-time": (
        lambda s: s["predicate"]["runDetails"]["metadata"].update(finishedOn="2026-02-31T00:00:00Z"),
        "malformed",
    ),
    "time-without-zone": (
        lambda s: s["predicate"]["runDetails"]["metadata"].update(finishedOn="2026-02-01T00:00:00"),
        "malformed",
    ),
    "image-name-with-a-path": (
        lambda s: internal(s)["images"]["aws"].update(name="../image.eif"),
        "malformed",
    ),
    "profile-with-a-path": (lambda s: external(s).update(profiles=["../aws"]), "malformed"),
    "reason-with-an-escape": (lambda s: internal(s).update(reason="\x1b[2Jall fine"), "malformed"),
    "another-architecture": (lambda s: external(s).update(architecture="aarch64"), "wrong-architecture"),
    "another-release": (lambda s: external(s).update(release="0.0.9"), "wrong-release"),
    "another-commits-tree": (
        lambda s: external(s)["source"].update(tree_sha256="ab" * 32),
        "wrong-source",
    ),
    "another-lock": (lambda s: external(s).update(lock_sha256="ab" * 32), "wrong-source"),
    "another-round": (lambda s: internal(s).update(round="0"), "wrong-round"),
    "another-members-file": (lambda s: internal(s)["quorum"].update(sha256="ab" * 32), "wrong-members-file"),
    "another-members-version": (lambda s: internal(s)["quorum"].update(version=2), "wrong-members-file"),
}


@pytest.mark.parametrize("name", SIGNED_CHANGES)
def test_a_signed_statement_that_breaks_a_rule_does_not_count(three: Members, name: str) -> None:
    """A good signature does not help a statement of another form, source, members file, round or machine."""
    change, reason = SIGNED_CHANGES[name]
    statement = provenance.statement_to_json(three.statement("buyer-3", report_json()))
    change(statement)
    three.write(FILE, signed(three, canonical(statement)))
    assert_only_refused(three, reason)


def test_a_statement_about_another_profile_does_not_count(three: Members) -> None:
    """A rebuild of ``local`` says nothing about ``aws``."""
    local = report_json(profiles={"local": report_json()["profiles"]["local"]})
    three.sign("buyer-3", local)
    assert_only_refused(three, "wrong-profile")


def test_a_payload_that_is_not_base64_is_refused(three: Members) -> None:
    """base64 with line breaks or loose bits has more than one reading."""
    envelope = json.loads(three.sign("buyer-3", report_json()).read_bytes())
    text = envelope["payload"]
    for payload in (text[:40] + "\n" + text[40:], text.rstrip("=") + "=====", "%%%", text + "A"):
        three.write(FILE, canonical({**envelope, "payload": payload}))
        assert_only_refused(three, "malformed")


def test_two_results_of_one_member_are_a_dissent(three: Members) -> None:
    """Who signs two different results for one source is an equivocator and counts as dissent."""
    three.sign("buyer-3", report_json(), name="rebuild.buyer-3.one.intoto.json")
    three.sign("buyer-3", report_json("other"), name="rebuild.buyer-3.two.intoto.json")
    outcome = three.decide()
    assert outcome.agree == ("buyer-1", "buyer-2")
    assert outcome.dissent[0].member == "buyer-3"
    assert "signed 2 different results for one source" in outcome.dissent[0].detail


def test_an_equivocator_does_not_agree_with_anybody(three: Members) -> None:
    """buyer-2's second result takes its first out of the count, under both dissent rules."""
    three.sign("buyer-2", report_json("other"), name="rebuild.buyer-2.two.intoto.json")
    outcome = three.decide()
    assert outcome.decision is None
    assert outcome.agree == ("buyer-1",)


def test_a_dissent_beside_an_agreement_is_a_dissent(three: Members) -> None:
    """A member that both agrees and dissents dissents."""
    name = "rebuild.buyer-2.no.intoto.json"
    three.sign("buyer-2", report_json(), outcome="dissent", reason="no", name=name)
    assert three.decide().agree == ("buyer-1",)


def test_the_wrong_claim_makes_no_decision(three: Members) -> None:
    """A publisher that changes the claim after the fact gets no decision, not another one."""
    three.claim(report_json("other"))
    outcome = three.decide()
    assert outcome.decision is None
    assert [answer.member for answer in outcome.dissent] == ["buyer-1", "buyer-2"]


@pytest.mark.parametrize("name", [name for name in RAW_FILES if name != "100-mb"])
def test_a_hostile_claim_is_a_reason(three: Members, name: str) -> None:
    """claim.json is hostile input too."""
    three.write("claim.json", RAW_FILES[name][0])
    outcome = three.decide()
    assert outcome.decision is None
    assert sentences(outcome.reasons)[0].startswith("releases/0.1.0/claim.json: ")


def test_hostile_members_signatures_are_refused_alone(three: Members) -> None:
    """A bad signature file beside a complete chain is named and changes nothing."""
    three.write("quorum.1.mallory.dsse.json", b"{")
    three.write("quorum.7.mallory.dsse.json", b"[" * 100_000)
    outcome = three.decide()
    assert outcome.decision is not None
    assert [item.code for item in outcome.refused] == ["malformed", "too-deep"]


def test_a_link_of_another_step_does_not_reach_in_toto(three: Members) -> None:
    """Only links that say exactly what the member's statement says are handed on."""
    for name in ("buyer-1", "buyer-2"):
        statement = three.statement(name, report_json())
        key = three.signers[name].public
        three.write(link_name(key), sign_link(statement, three.signers[name]))
    foreign = {**link_of(three.statement("buyer-2", report_json())), "name": "deploy"}
    three.write(link_name(three.signers["buyer-2"].public), signed_block(three, "buyer-2", foreign))
    with Folder(three.attestations) as folder:
        found = filtered(ReleaseFiles(folder, "0.1.0"), three.file, three.decide().answers)
    assert list(found) == [link_name(three.signers["buyer-1"].public)]


def test_too_many_files_are_an_answer(three: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with more names than any quorum has is refused instead of read."""
    monkeypatch.setattr("coattest.files.MAX_FILES", 10)
    for index in range(10):
        three.write(f"x{index}", b"")
    outcome = three.decide()
    assert outcome.decision is None
    assert "more than 10 files" in sentences(outcome.reasons)[0]


def test_flipping_any_byte_of_the_payload_breaks_the_signature(three: Members) -> None:
    """No change to a signed payload survives."""
    envelope = json.loads(three.sign("buyer-3", report_json()).read_bytes())
    payload = base64.b64decode(envelope["payload"])
    for position in range(0, len(payload), len(payload) // 50):
        changed = bytearray(payload)
        changed[position] ^= 1
        three.write(FILE, canonical({**envelope, "payload": base64.b64encode(changed).decode()}))
        assert_only_refused(three, "bad-signature")
