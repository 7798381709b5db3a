"""docs/fields.md names every field of the files around a release, and no field that nothing reads."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coattest.files import Folder
from coattest.strictjson import canonical
from coattest_verify.quorum.members.file import MemberGroup, MembersFile, RestartPoint
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.provenance import parse_statement, statement_to_json
from coattest_verify.quorum.statements.salt import new_secret, read_secret, write_secret
from coattest_verify.quorum.statements.votes import (
    EXCUSE,
    KINDS,
    PUBLISH,
    REVIEW,
    UNREVOKE,
    make_vote,
    read_votes,
    sign_vote,
    vote_name,
)
from coattest_verify.signatures.dsse import DsseEnvelope
from support.guides.blocks import ROOT
from support.source_tree import modules
from support.verify.members import NOW, Members, report_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = ROOT / "docs" / "fields.md"
NAMED_BY_DATA = {"profiles", "environment", "links", "files", "images", "isolation"}
"""Objects whose keys are data: their values are looked at, their keys are not fields."""


def fields(value: Any, *, named: bool = True) -> Iterator[str]:
    """Every field's name in a document."""
    if isinstance(value, dict):
        for key, below in value.items():
            if named:
                yield key
            yield from fields(below, named=key not in NAMED_BY_DATA)
    elif isinstance(value, list):
        for item in value:
            yield from fields(item)


def section(title: str) -> str:
    """One section of the page."""
    return re.split(rf"^## {re.escape(title)}$", PAGE.read_text(), flags=re.MULTILINE)[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "path"),
    [
        ("image.toml", "build/image.toml"),
        ("image.lock", "build/image.lock"),
        ("claim.json", "attestations/releases/0.1.0/claim.json"),
    ],
)
def test_every_field_is_on_the_page(title: str, path: str) -> None:
    """A field that was added to a format, or renamed, is noticed."""
    text = (ROOT / path).read_text()
    document = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    words = set(re.findall(r"\w+", section(title)))
    # PCR1 stands between PCR0 and PCR2.
    assert set(fields(document)) - words <= {"PCR1"}


def test_every_format_is_among_the_versions() -> None:
    """What a source file calls a format, purpose or label of version 1 has a row; there is no version 2."""
    text = (ROOT / "docs" / "versioning.md").read_text()
    named = {
        found
        for path in modules().values()
        for found in re.findall(r"coattest[-/][a-z-]+/v\d+", path.read_text())
    }
    kinds = {f"coattest/{kind}/v1" for kind in KINDS}
    assert len(named) > 30
    assert {item for item in named | kinds if f"`{item}`" not in text} == set()
    assert all(item.endswith("/v1") for item in named)


def test_the_reader_of_fields_reads() -> None:
    """It goes into objects and lists, and leaves out keys that are data."""
    document = {"a": [{"b": 1}], "profiles": {"aws": {"c": {"d": 2}}}, "files": {"x": "y"}}
    assert sorted(fields(document)) == ["a", "b", "c", "d", "files", "profiles"]


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """A quorum whose members file has every field, and a claim."""
    quorum = Members.make(
        tmp_path,
        ["buyer-1", "buyer-2"],
        groups=(MemberGroup("both", ("buyer-1", "buyer-2"), 2),),
        routes=2,
        hosts=2,
        commitments=1,
        revoke_threshold=2,
        reviews=1,
        change=2,
    )
    quorum.claim(report_json())
    return quorum


def members_file(quorum: Members) -> Any:
    """Version 2 of quorum.toml: version 1 has no ``previous`` and no restart point."""
    following = quorum.file.successor(round="2", restart=RestartPoint(1, "ab" * 32))
    return tomllib.loads(MembersFile.decode(following.raw).raw.decode())


def statement(quorum: Members) -> Any:
    """A statement that its reader takes."""
    document = statement_to_json(quorum.statement("buyer-1", report_json(), host="attic", salt="ab" * 32))
    parse_statement(canonical(document))
    return document


def commitment(quorum: Members) -> Any:
    """The secret of a commitment that its reader takes."""
    path = write_secret(quorum.folder, new_secret("buyer-1", quorum.root))
    assert read_secret(quorum.folder, "buyer-1", quorum.root) is not None
    return json.loads(path.read_bytes())


def vote(quorum: Members) -> Any:
    """The fields of a review and of an undoing, which have all that votes have, that their reader takes."""
    assert quorum.claimed is not None
    found = {}
    excuse = {"undoes": "ab" * 32, "excused": "buyer-2"}
    claim = {"published": ("ab" * 32, "c" * 40, "v1")}
    undoes = {"undoes": "ab" * 32}
    for kind, more in (
        (REVIEW, {"since": "ab" * 32}),
        (UNREVOKE, undoes),
        (EXCUSE, excuse),
        (PUBLISH, claim),
    ):
        made = make_vote(kind, "buyer-1", root=quorum.root, claim=quorum.claimed, note="x", now=NOW, **more)
        path = quorum.write(vote_name(made), sign_vote(made, quorum.signers["buyer-1"]))
        envelope = DsseEnvelope.decode(path.read_bytes(), f"application/vnd.coattest.{kind}+json")
        found |= json.loads(envelope.payload)
    with Folder(quorum.attestations) as folder:
        assert read_votes(ReleaseFiles(folder, "0.1.0"), quorum.file)[1] == []
    return found


@pytest.mark.parametrize(
    ("title", "make"),
    [
        ("The members file", members_file),
        ("The signed rebuild (statement)", statement),
        ("Commitment", commitment),
        ("Votes", vote),
    ],
)
def test_the_page_has_the_fields_that_the_readers_take(title: str, make: Any, quorum: Members) -> None:
    """Readers refuse an unknown field and a missing one, so these are exactly the fields of the format."""
    text = section(title)
    found = set(fields(make(quorum)))
    # PCR1 stands between PCR0 and PCR2.
    assert found - set(re.findall(r"\w+", text)) <= {"PCR1"}
    columns = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    on_page = {
        word
        for cell in columns
        for name in re.findall("`([^`]+)`", cell)
        for word in re.findall(r"\w+", name)
    }
    assert on_page, title
    assert on_page <= found
