"""Statements as in-toto Statement v1 with SLSA provenance v1, and back, strictly.

Sources: in-toto/attestation spec/v1/statement.md; slsa.dev/spec/v1.0/provenance. The meaning of the
parameters is BUILD_TYPE's; docs/quorum.md lists them.
"""

from __future__ import annotations

import marshal
import secrets
from dataclasses import asdict
from typing import Any

from coattest.errors import Rejected
from coattest.strictjson import MAX_SIZE, Fields, canonical, parse
from coattest_verify.quorum.members.file import NAME, ROUND, parse_utc, utc
from coattest_verify.quorum.statements.claim import (
    ARCHITECTURE,
    IMAGE_NAME,
    MAX_IMAGE,
    MAX_PROFILES,
    PROFILE,
    RELEASE,
    SHA256,
    SHA384,
    ProfileResult,
    read_pcrs,
    read_sections,
)
from coattest_verify.quorum.statements.statement import (
    COULD_NOT_BUILD,
    HOST,
    MAX_INPUTS,
    MAX_REASON,
    OUTCOMES,
    Built,
    LockedInput,
    Statement,
    checked_input,
    clean,
)
from coattest_verify.signatures import dsse
from coattest_verify.signatures.keys import Signer

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "tag:coattest,2026:rebuild/v1"
BUILDER_ID = "tag:coattest,2026:member/"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""DSSE payload type of in-toto statements (in-toto/attestation spec/v1/envelope.md)."""


def sign_statement(statement: Statement, signer: Signer) -> bytes:
    """The signed statement: DSSE JSON."""
    return dsse.sign_envelope(signer, PAYLOAD_TYPE, canonical(statement_to_json(statement))).encode()


def statement_to_json(statement: Statement) -> dict[str, Any]:
    """The in-toto Statement v1."""
    subjects = statement.products or {"claim.json": {"sha256": statement.claim_sha256}}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": digests} for name, digests in subjects.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _external(statement),
                "internalParameters": _internal(statement),
                "resolvedDependencies": [
                    {
                        "name": item.name,
                        "digest": {"sha256": item.sha256},
                        "annotations": {"version": item.version, "kind": item.kind, "path": item.path},
                    }
                    for item in (statement.built.inputs if statement.built else ())
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID + statement.member},
                "metadata": {"finishedOn": utc(statement.time)},
            },
        },
    }


def _external(statement: Statement) -> dict[str, Any]:
    built = statement.built
    return {
        "release": statement.release,
        "architecture": statement.architecture,
        "route": built.route if built else None,
        "profiles": sorted(statement.profiles),
        "source": {"commit": built.commit if built else None, "tree_sha256": statement.tree_sha256},
        "lock_sha256": statement.lock_sha256,
    }


def _internal(statement: Statement) -> dict[str, Any]:
    built = statement.built
    return {
        "member": statement.member,
        "outcome": statement.outcome,
        "reason": statement.reason,
        "claim_sha256": statement.claim_sha256,
        "quorum": {"version": statement.quorum_version, "sha256": statement.quorum_sha256},
        "round": statement.round,
        "images": {
            profile: {
                "name": result.name,
                "size": result.size,
                "sections": [asdict(section) for section in result.sections],
            }
            for profile, result in statement.profiles.items()
        },
        "kernel": {"compiled_here": built.kernel_compiled, "sha256": built.kernel_sha256} if built else None,
        "tool": {"version": built.tool_version, "sha256": built.tool_sha256} if built else None,
        "isolation": dict(built.isolation) if built else None,
        "inputs": {"confirmed": statement.inputs_confirmed},
        "host": statement.host,
        "salt": statement.salt,
    }


def parse_statement(payload: bytes) -> Statement:
    """The statement in a payload whose signature was verified before. Raises Rejected."""
    short = _without_last_inputs(payload)
    if short is not None:
        fields = Fields(parse(short, max_size=MAX_SIZE), "")
        definition = fields.fields("predicate").fields("buildDefinition")
        if definition.anything("resolvedDependencies") == _MARK:
            return _statement(fields)
    return _statement(Fields(parse(payload, max_size=MAX_SIZE), ""), payload)


def _statement(fields: Fields, payload: bytes = b"") -> Statement:
    fields.exactly("_type", STATEMENT_TYPE, code="statement-type")
    fields.exactly("predicateType", PREDICATE_TYPE, code="predicate-type")
    predicate = fields.fields("predicate")
    definition, details = predicate.fields("buildDefinition"), predicate.fields("runDetails")
    definition.exactly("buildType", BUILD_TYPE, code="build-type")
    external, internal = definition.fields("externalParameters"), definition.fields("internalParameters")
    builder, metadata = details.fields("builder"), details.fields("metadata")
    source, quorum = external.fields("source"), internal.fields("quorum")
    inputs = internal.fields("inputs")
    member = internal.text("member", NAME)
    builder.exactly("id", BUILDER_ID + member)
    outcome = internal.choice("outcome", OUTCOMES)
    claim = internal.text("claim_sha256", SHA256)
    profiles = _profiles(fields, external, internal, claim if outcome == COULD_NOT_BUILD else None)
    statement = Statement(
        member=member,
        outcome=outcome,
        reason=internal.optional("reason", lambda name: _reason(internal.text(name, limit=MAX_REASON))),
        release=external.text("release", RELEASE),
        architecture=external.text("architecture", ARCHITECTURE),
        tree_sha256=source.text("tree_sha256", SHA256),
        lock_sha256=external.text("lock_sha256", SHA256),
        claim_sha256=claim,
        profiles=profiles,
        built=Built.read(external, source, internal, _inputs(definition, payload)) if profiles else None,
        quorum_version=quorum.integer("version", 1),
        quorum_sha256=quorum.text("sha256", SHA256),
        round=internal.text("round", ROUND),
        time=parse_utc(metadata.text("finishedOn")),
        inputs_confirmed=inputs.boolean("confirmed"),
        host=internal.optional("host", internal.text, HOST),
        salt=internal.optional("salt", internal.text, SHA256),
    )
    if not profiles:
        _require_nothing(definition, external, internal, source)
    fields.done()
    return statement


def _profiles(
    fields: Fields, external: Fields, internal: Fields, unbuilt_claim: str | None
) -> dict[str, ProfileResult]:
    """Results from subjects (digests) and images (sizes, sections); all three lists must name the same.

    Members who agree have the same ones: those that were read last are not read again.
    """
    lists = [fields.anything("subject"), external.anything("profiles"), internal.anything("images")]
    # Exact: true is not 1 in marshal's form, and version 2 has no references in it. Nothing loads it.
    key = marshal.dumps([*lists, unbuilt_claim], 2)
    if key != _results[0][0]:
        _results[0] = (key, _read_profiles(fields, external, internal, unbuilt_claim))
    return dict(_results[0][1])


def _read_profiles(
    fields: Fields, external: Fields, internal: Fields, unbuilt_claim: str | None
) -> dict[str, ProfileResult]:
    subjects = _read_subjects(fields)
    names = external.items("profiles", high=MAX_PROFILES)
    images = internal.mapping("images", low=0, high=MAX_PROFILES)
    if unbuilt_claim is not None:
        if names or images or subjects != {"claim.json": {"sha256": unbuilt_claim}}:
            raise Rejected("subject: a build that did not happen has the claim as its only subject")
        return {}
    if not names or any(not isinstance(name, str) or not PROFILE.fullmatch(name) for name in names):
        raise Rejected(f"{external.at('profiles')}: not profiles' names")
    if sorted(images) != names:
        raise Rejected(f"{external.at('profiles')}: not the sorted profiles of {internal.at('images')}")
    found = {}
    for profile in names:
        image = Fields(images[profile], f"{internal.at('images')}.{profile}")
        name = image.text("name", IMAGE_NAME)
        digests = Fields(subjects.pop(f"{profile}/{name}", None), f"subject {profile}/{name}")
        pcrs = []
        for index in range(3):
            register = Fields(subjects.pop(f"{profile}/PCR{index}", None), f"subject {profile}/PCR{index}")
            pcrs.append(register.text("sha384", SHA384))
            register.done()
        found[profile] = ProfileResult(
            name=name,
            size=image.integer("size", 1, MAX_IMAGE),
            sha256=digests.text("sha256", SHA256),
            sha384=digests.text("sha384", SHA384),
            pcrs=read_pcrs(pcrs, f"subject {profile}"),
            sections=read_sections(image),
        )
        digests.done()
        image.done()
    if subjects:
        raise Rejected("subject: does not belong to a profile", code="unknown-field")
    return found


def _read_subjects(fields: Fields) -> dict[str, Any]:
    subjects: dict[str, Any] = {}
    for entry in fields.each("subject", low=1, high=4 * MAX_PROFILES):
        name = entry.text("name", limit=128)
        if name in subjects:
            raise Rejected(f"{entry.path}: named twice", code="duplicate-key")
        subjects[name] = dict(entry.mapping("digest", high=4))
        entry.done()  # here: what was read before is not read again
    return subjects


def _require_nothing(definition: Fields, external: Fields, internal: Fields, source: Fields) -> None:
    definition.items("resolvedDependencies", high=0)
    empty = [(internal, name) for name in ("kernel", "tool", "isolation")]
    for fields, name in [*empty, (external, "route"), (source, "commit")]:
        if fields.anything(name) is not None:
            raise Rejected(f"{fields.at(name)}: must be null when nothing was built")


# The inputs read last, as the bytes that a payload had and as what they are. The members of one quorum name
# the same inputs, hundreds each, and most of a statement's JSON is theirs: bytes that equal the last ones are
# not read again. A mark that nobody can guess stands for them meanwhile, so no outcome changes: outside of a
# string they are one name and its value wherever they stand, and inside of one they would end it.
_INPUTS = b'"resolvedDependencies":'
_MARK = secrets.token_hex(16)
_last: list[tuple[bytes, tuple[LockedInput, ...]]] = [(b"", ())]

_results: list[tuple[bytes, dict[str, ProfileResult]]] = [(b"", {})]
"""The results that were read last, by what they were read from."""


def _without_last_inputs(payload: bytes) -> bytes | None:
    """The payload with the mark for the inputs that were read last; None where they are not in it."""
    known, at = _last[0][0], payload.find(_INPUTS)
    if at <= 0 or not known or not payload.startswith(known, at) or len(payload) > MAX_SIZE:
        return None
    if payload[at - 1 : at] not in (b",", b"{"):
        return None
    return b'%b%b"%b"%b' % (payload[:at], _INPUTS, _MARK.encode(), payload[at + len(known) :])


def _inputs(definition: Fields, payload: bytes) -> tuple[LockedInput, ...]:
    """The locked inputs; those of a whole ``payload`` are the ones that were read last, from now on."""
    if not payload and definition.anything("resolvedDependencies") == _MARK:
        return _last[0][1]
    items = definition.items("resolvedDependencies", high=MAX_INPUTS)
    inputs = tuple(_dependency(item) for item in items)
    _last[0] = (canonical({"resolvedDependencies": items})[1:-1], inputs)
    return inputs


def _dependency(item: Any) -> LockedInput:
    # By hand, not through Fields: a statement has hundreds of these, and a quorum hundreds of statements.
    try:
        digest, notes = item["digest"], item["annotations"]
        found = LockedInput(item["name"], notes["version"], digest["sha256"], notes["kind"], notes["path"])
        if (len(item), len(digest), len(notes)) != (3, 1, 3):
            raise Rejected("resolvedDependencies: unknown field", code="unknown-field")
        return checked_input(found)
    except (TypeError, KeyError):
        raise Rejected("resolvedDependencies: not a resource descriptor") from None


def _reason(text: str) -> str:
    if clean(text) != text:
        raise Rejected("reason: not one printable line")
    return text
