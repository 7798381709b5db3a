"""The signed rebuilds in a folder: which files count as statements of a member, and why others do not.

A statement is a plain file with a statement's name: a DSSE envelope of in-toto's payload type, signed by a
key of the member in the file's name. Only then is the payload parsed (docs/quorum.md, "How it is decided").
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.members.file import NAME, MembersFile
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE, parse_statement
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.signatures.dsse import DsseEnvelope

STATEMENT_NAME = re.compile(rf"rebuild\.({NAME.pattern})(?:\.[A-Za-z0-9_-]{{1,64}})?\.intoto\.json")


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature was verified, and the file that it came from."""

    file: str
    statement: Statement
    sha256: str
    """SHA-256 of the file, lower-case hex."""


def read_statements(evidence: Evidence, members: MembersFile) -> tuple[list[SignedStatement], list[Finding]]:
    """Every statement with a good signature, and why each other file with a statement's name is refused."""
    accepted, refused = [], []
    for name in evidence.names():
        if not name.startswith("rebuild.") or name.endswith(".link"):
            continue
        try:
            accepted.append(_authentic(name, evidence, members))
        except Rejected as error:
            refused.append(Finding(error.code, name, error.what))
    return accepted, refused


def _authentic(name: str, evidence: Evidence, members: MembersFile) -> SignedStatement:
    match = STATEMENT_NAME.fullmatch(name)
    if match is None:
        raise Rejected("not the name of a statement", code="bad-name")
    member = members.member(match[1])
    if member is None:
        raise Rejected(f"{match[1]} is not a member", code="not-a-member")
    data = evidence.read(name)
    envelope = DsseEnvelope.decode(data, PAYLOAD_TYPE)
    if not envelope.signers(member.keys):
        raise Rejected(f"not signed by a key of {member.name}", code="bad-signature")
    statement = parse_statement(envelope.payload)
    if statement.member != member.name:
        raise Rejected(f"signed by {member.name}, but speaks for {statement.member}", code="wrong-member")
    return SignedStatement(name, statement, hashlib.sha256(data).hexdigest())
