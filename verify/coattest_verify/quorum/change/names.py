"""Whose a file below ``attestations/`` is, by its name: each is one member's, or follows from the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from coattest.strictjson import MAX_SIZE
from coattest_verify.quorum.links import LAYOUT_NAME, MAX_LAYOUT, MAX_LINK
from coattest_verify.quorum.log.checkpoint import MAX_CHECKPOINT
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, COSIGNATURE_NAME, MAX_PART
from coattest_verify.quorum.members.chain import SIGNATURE_NAME
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE
from coattest_verify.quorum.releases import ATTRIBUTES_FILE, ATTRIBUTES_TEXT, RELEASES
from coattest_verify.quorum.signing import PROPOSAL_FILE
from coattest_verify.quorum.statements.claim import CLAIM_FILE, MAX_CLAIM, RELEASE
from coattest_verify.quorum.statements.signed import STATEMENT_NAME
from coattest_verify.quorum.statements.votes import MAX_VOTE, VOTE_NAME

CLAIM, STATEMENT, VOTE, LINK = "claim", "statement", "vote", "link"
MEMBERS, PROPOSAL, SIGNATURE, LAYOUT = "members-file", "proposal", "signature", "layout"
CHECKPOINT, TILE, COSIGNATURE, OTHER = "checkpoint", "tile", "cosignature", "other"
ATTRIBUTES = "attributes"

SHARED = frozenset({MEMBERS, PROPOSAL, ATTRIBUTES, CHECKPOINT, TILE})
"""Kinds of files that are nobody's: they follow from the others, or are nothing before members sign them."""

LINK_NAME = re.compile(r"rebuild\.([0-9a-f]{8})\.link")
_TILE = re.compile(r"log/tile/(?:entries|[0-9])/(?:x[0-9]{3}/){0,3}[0-9]{3}(?:\.p/[0-9]{1,3})?")
_FIXED = {
    MEMBERS_FILE: (MEMBERS, MAX_MEMBERS_FILE),
    PROPOSAL_FILE: (PROPOSAL, MAX_MEMBERS_FILE),
    CHECKPOINT_FILE: (CHECKPOINT, MAX_CHECKPOINT),
    ATTRIBUTES_FILE: (ATTRIBUTES, len(ATTRIBUTES_TEXT)),
}
_OWN = {
    SIGNATURE_NAME: (SIGNATURE, 2 * MAX_MEMBERS_FILE, 2),
    LAYOUT_NAME: (LAYOUT, MAX_LAYOUT, 2),
    COSIGNATURE_NAME: (COSIGNATURE, MAX_CHECKPOINT, 1),
}
"""Names of one member's files beside the releases: kind, limit, and the group that is the member."""

OtherFiles = Mapping[re.Pattern[str], str]
"""Signed files that another room knows: the form of their names, whose first group is the member, and the
DSSE payload type."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A file by its name: its kind, the most bytes that it has, its release, and the member in the name.

    ``member`` of a link are the first eight digits of the key's id. ``payload_type`` is that of ``other``.
    """

    kind: str
    limit: int
    release: str = ""
    member: str = ""
    payload_type: str = ""


def place_of(name: str, others: OtherFiles) -> FilePlace | None:
    """What a file is, by its name from the folder of attestations; None for what belongs to nobody."""
    if name in _FIXED:
        return FilePlace(*_FIXED[name])
    top, _, rest = name.partition("/")
    if top == RELEASES:
        release, _, own = rest.partition("/")
        return _of_a_release(release, own) if RELEASE.fullmatch(release) else None
    if _TILE.fullmatch(name):
        return FilePlace(TILE, MAX_PART)
    for pattern, (kind, limit, group) in _OWN.items():
        if match := pattern.fullmatch(name):
            return FilePlace(kind, limit, member=match[group])
    for pattern, payload_type in others.items():
        if match := pattern.fullmatch(name):
            return FilePlace(OTHER, MAX_VOTE, member=match[1], payload_type=payload_type)
    return None


def _of_a_release(release: str, own: str) -> FilePlace | None:
    if own == CLAIM_FILE:
        return FilePlace(CLAIM, MAX_CLAIM, release)
    if match := STATEMENT_NAME.fullmatch(own):
        return FilePlace(STATEMENT, MAX_SIZE, release, match[1])
    if match := VOTE_NAME.fullmatch(own):
        return FilePlace(VOTE, MAX_VOTE, release, match[2])
    if match := LINK_NAME.fullmatch(own):
        return FilePlace(LINK, MAX_LINK, release, match[1])
    return None
