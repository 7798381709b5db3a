"""The signed form of a rebuild: in-toto's and SLSA's public shapes, and back without loss."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import Rejected
from coattest.strictjson import canonical
from coattest_build.formats.registers import EMPTY_PCR2
from coattest_verify.quorum.statements import provenance
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE as TYPE
from coattest_verify.quorum.statements.statement import MAX_REASON, RebuildReport, clean
from coattest_verify.signatures import dsse
from support.verify.members import Members, profile_json, report_json

STATEMENTS = ("agree", "dissent", "could-not-build")


def made(quorum: Members, outcome: str) -> Any:
    report = None if outcome == "could-not-build" else report_json()
    reason = None if outcome == "agree" else "the compiler crashed"
    return quorum.statement("buyer-1", report, outcome=outcome, reason=reason)


@pytest.mark.parametrize("outcome", STATEMENTS)
def test_a_statement_is_read_back_as_it_was_signed(three: Members, outcome: str) -> None:
    """Signing, parsing and rendering again gives the same statement and the same bytes."""
    statement = made(three, outcome)
    signed = provenance.sign_statement(statement, three.signers["buyer-1"])
    envelope = dsse.DsseEnvelope.decode(signed, provenance.PAYLOAD_TYPE)
    found = provenance.parse_statement(envelope.payload)
    assert found == statement
    assert canonical(provenance.statement_to_json(found)) == envelope.payload


@pytest.mark.parametrize("outcome", STATEMENTS)
def test_a_statement_has_in_totos_public_shape(three: Members, outcome: str) -> None:
    """in-toto's own protobuf definitions accept the Statement v1 and the SLSA provenance v1."""
    pytest.importorskip("in_toto_attestation", reason="needs the in-toto-attestation package")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2

    document = provenance.statement_to_json(made(three, outcome))
    statement = json_format.ParseDict(document, statement_pb2.Statement())
    predicate = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
    assert [item.name for item in statement.subject] == [item["name"] for item in document["subject"]]
    assert all(item.digest for item in statement.subject)
    assert predicate.build_definition.build_type == provenance.BUILD_TYPE
    assert len(predicate.build_definition.resolved_dependencies) == len(
        document["predicate"]["buildDefinition"]["resolvedDependencies"]
    )


def test_a_reason_is_one_printable_line() -> None:
    """What a dissenter writes reaches a terminal as text and nothing else."""
    assert clean("a\n\tb  c") == "a b c"
    assert clean("\x1b[2J\u202egnp") == "?[2J?gnp"
    assert len(clean("x" * 1000)) == MAX_REASON


@pytest.mark.parametrize(
    "change",
    [
        {"format": "coattest-claim/v2"},
        {"extra": 1},
        {"architecture": "../x86"},
        {"profiles": {}},
        {"profiles": {"AWS": profile_json("x")}},
        {"profiles": {"aws": {**profile_json("x"), "pcrs": {"PCR0": "0" * 96}}}},
        {"profiles": {"aws": {**profile_json("x"), "pcrs": {f"PCR{i}": "0" * 96 for i in range(3)}}}},
        {
            "profiles": {
                "aws": {
                    **profile_json("x"),
                    "pcrs": {"PCR0": "1" * 96, "PCR1": "1" * 96, "PCR2": EMPTY_PCR2},
                }
            }
        },
        {"profiles": {"aws": {**profile_json("x"), "sections": []}}},
        {"source": {"tree_sha256": "0" * 64}},
    ],
)
def test_a_malformed_claim_is_refused(three: Members, change: dict[str, Any]) -> None:
    """A claim of another form, or one that pins nothing, is not a question."""
    whole = json.loads((three.released / "claim.json").read_bytes())
    with pytest.raises(Rejected):
        Claimed.decode(json.dumps({**whole, **change}).encode())


def test_the_differences_of_a_report_start_with_the_telling_ones() -> None:
    """Source first, then per profile the registers, the sections, and the file."""
    from support.verify.members import claim_json, sentences

    claim = Claimed.decode(json.dumps(claim_json(report_json())).encode())
    assert RebuildReport.read(report_json()).differences(claim) == ()
    other = report_json("evil", source="evil")
    del other["profiles"]["local"]
    differences = RebuildReport.read(other).differences(claim)
    found = sentences(differences)
    assert found[0].startswith("tree_sha256: ")
    assert found[1].startswith("aws: PCR0 ")
    assert found[2].startswith("aws: PCR2 ")
    assert found[3].startswith("aws: section 4 ramdisk of 34000000 bytes")
    assert found[-1] == "local: not built here"
    assert {item.code for item in differences[:-1]} == {"mismatch"}
    assert differences[-1].code == "not-built"
    assert (differences[1].expected, differences[1].found) == (
        claim.profiles["aws"].pcrs[0],
        other["profiles"]["aws"]["pcrs"]["PCR0"],
    )


def test_the_committed_claim_is_one_that_members_can_answer() -> None:
    """The committed claim parses and covers both profiles with the same boot ramdisk and kernel."""
    path = Path(__file__).parents[3] / "attestations" / "releases" / "0.1.0" / "claim.json"
    if not path.exists():
        pytest.skip("no claim is committed")
    claim = Claimed.decode(path.read_bytes())
    assert {"aws", "local"} <= set(claim.profiles)
    assert claim.profiles["aws"].pcrs[1] == claim.profiles["local"].pcrs[1]
    assert claim.profiles["aws"].pcrs[2] != claim.profiles["local"].pcrs[2]


def _spoiled(payload: bytes) -> dict[str, bytes]:
    """Payloads that have much in common with one that was read before, and are not it."""
    good = json.loads(payload)
    inputs = good["predicate"]["buildDefinition"]["resolvedDependencies"]

    def changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
        values = copy.deepcopy(good)
        definition = values["predicate"]["buildDefinition"]
        change(definition, definition["internalParameters"])
        return canonical(values)

    def moved(definition: dict[str, Any], internal: dict[str, Any]) -> None:
        internal["isolation"]["resolvedDependencies"] = definition.pop("resolvedDependencies")

    def both(definition: dict[str, Any], internal: dict[str, Any]) -> None:
        internal["isolation"]["resolvedDependencies"] = definition["resolvedDependencies"]
        definition["resolvedDependencies"] = [{**inputs[0], "name": "other"}]

    text = b'"resolvedDependencies":' + canonical(inputs)
    return {
        "the same": payload,
        "another input": changed(
            lambda definition, _: definition["resolvedDependencies"][0].update(name="x")
        ),
        "an input more": changed(lambda definition, _: definition["resolvedDependencies"].append(inputs[0])),
        "no inputs": changed(lambda definition, _: definition.pop("resolvedDependencies")),
        "elsewhere": changed(moved),
        "elsewhere, and others": changed(both),
        "twice": payload.replace(text, text + b"," + text),
        "no comma": payload.replace(text, b" " + text),
        "in a string": payload.replace(text, b'"x' + text),
        "in a name": payload.replace(text, b'"x\\' + text),
        "true for 1": changed(lambda _, internal: internal["images"]["aws"].update(size=True)),
        "another register": payload.replace(b"PCR1", b"PCR3"),
        "another order": json.dumps(dict(reversed(good.items()))).encode(),
    }


@pytest.mark.parametrize("first", ["the same", "true for 1", "another input", "elsewhere, and others"])
def test_what_was_read_before_changes_no_outcome(three: Members, first: str) -> None:
    """Members' statements are much alike, and what is alike is read once: each is what it is by itself."""
    report = report_json()
    report["profiles"]["aws"]["image"]["size"] = 1
    for section in report["profiles"]["aws"]["sections"]:
        section["size"] = 1
    spoiled = _spoiled(dsse.DsseEnvelope.decode(three.sign("buyer-1", report).read_bytes(), TYPE).payload)

    def read(payload: bytes) -> Any:
        try:
            return provenance.parse_statement(payload)
        except Rejected as error:
            return error.code, error.what

    def read_alone(payload: bytes) -> Any:
        provenance._last[0], provenance._results[0] = (b"", ()), (b"", {})
        return read(payload)

    alone = {name: read_alone(payload) for name, payload in spoiled.items()}
    assert {name for name, found in alone.items() if not isinstance(found, tuple)} == {
        "the same",
        "another input",
        "an input more",
        "elsewhere, and others",
        "no comma",
        "another order",
    }
    for name, payload in spoiled.items():
        read_alone(spoiled[first])
        assert (name, read(payload)) == (name, alone[name])
