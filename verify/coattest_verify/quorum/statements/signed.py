"""The signed rebuilds in a folder: which files count as statements of a member, and why others do not.

A statement is a plain file with a statement's name: a DSSE envelope of in-toto's payload type, signed by a
key of the member in the file's name. Only then is the payload parsed (docs/quorum.md, "How it is decided").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.members.file import NAME, MembersFile
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE, parse_statement
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.quorum.statements.votes import OLD_KEY
from coattest_verify.signatures.dsse import DsseEnvelope
from coattest_verify.signatures.keys import PublicKey

STATEMENT_NAME = re.compile(rf"rebuild\.({NAME.pattern})(?:\.[A-Za-z0-9_-]{{1,64}})?\.intoto\.json")


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature was verified, and the file that it came from."""

    file: str
    statement: Statement
    sha256: str
    """SHA-256 of the file, lower-case hex."""
    signed_sha256: str = ""
    """SHA-256 of the bytes that are signed (hex): the same in every file that carries them."""
    keys: frozenset[PublicKey] = frozenset()
    """The member's keys that signed it."""

    def stood(self, versions: Sequence[MembersFile]) -> bool:
        """Whether it was made under one of ``versions``, and its member had such a key in every one since."""
        made = self.statement
        under = [
            index
            for index, version in enumerate(versions)
            if (version.version, version.sha256) == (made.quorum_version, made.quorum_sha256)
        ]
        return bool(under) and any(
            all((party := file.member(made.member)) and key in party.keys for file in versions[under[0] :])
            for key in self.keys
        )


Standing = Callable[[SignedStatement], bool]
"""Whether a statement stands that is signed by keys which its member no longer has."""


def read_statements(
    evidence: Evidence,
    members: MembersFile,
    earlier: Sequence[MembersFile] = (),
    stands: Standing = lambda _: False,
) -> tuple[list[SignedStatement], list[Finding]]:
    """Every statement with a good signature, and why each other file with a statement's name is refused.

    One that only keys signed which the member had in an ``earlier`` version is refused unless it ``stands``.
    """
    accepted, refused = [], []
    for name in evidence.names():
        if not name.startswith("rebuild.") or name.endswith(".link"):
            continue
        try:
            accepted.append(_authentic(name, evidence, members, earlier, stands))
        except Rejected as error:
            refused.append(Finding(error.code, name, error.what))
    return accepted, refused


def _authentic(
    name: str, evidence: Evidence, members: MembersFile, earlier: Sequence[MembersFile], stands: Standing
) -> SignedStatement:
    match = STATEMENT_NAME.fullmatch(name)
    if match is None:
        raise Rejected("not the name of a statement", code="bad-name")
    member = members.member(match[1])
    if member is None:
        raise Rejected(f"{match[1]} is not a member", code="not-a-member")
    data = evidence.read(name)
    envelope = DsseEnvelope.decode(data, PAYLOAD_TYPE)
    keys, former = envelope.signers(member.keys), False
    if not keys:
        gone = {key for file in earlier if (party := file.member(member.name)) for key in party.keys}
        keys, former = envelope.signers(sorted(gone, key=lambda key: key.spki)), True
    if not keys:
        raise Rejected(f"not signed by a key of {member.name}", code="bad-signature")
    statement = parse_statement(envelope.payload)
    if statement.member != member.name:
        raise Rejected(f"signed by {member.name}, but speaks for {statement.member}", code="wrong-member")
    signed = hashlib.sha256(envelope.payload).hexdigest()
    found = SignedStatement(name, statement, hashlib.sha256(data).hexdigest(), signed, frozenset(keys))
    if former and not stands(found):
        raise Rejected(f"signed by a key that {member.name} no longer has", code=OLD_KEY)
    return found
