"""The same rebuild as classic in-toto links and a layout: stock ``in-toto-verify`` gives a second opinion.

What in-toto 3.1 does with hostile files (docs/quorum.md: it executes a layout's inspections, counts one key
under two ids twice, accepts links of other steps) never happens: ``filtered`` hands on only links that it
could have written itself from a statement that counts, signature aside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from coattest.errors import Rejected
from coattest.files import Evidence, read_or_none
from coattest.strictjson import Fields, parse
from coattest_verify.quorum.members.file import NAME, MembersFile, utc
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.quorum.tally import Answer
from coattest_verify.signatures.keys import PublicKey, Signer
from coattest_verify.signatures.olpc import encode_olpc

STEP = "rebuild"
COMMAND = ["verify", "rebuild"]
LAYOUT_FILE = "root.layout"
"""What ``verify release links`` puts together; in-toto's own name for it."""
LAYOUT_NAME = re.compile(rf"layout\.([1-9][0-9]{{0,5}})\.({NAME.pattern})\.json")
"""One member's signature on the layout of one version of the members file, with the layout."""
MAX_LINK = 256 * 1024
"""Bytes of a link; two profiles have about 3 kB."""
MAX_LAYOUT = 4 * MAX_LINK
"""Bytes of a layout, which has every member's keys."""

README = "Rebuilds of a coattest image. The decision is made by verify quorum; this is a second opinion."


def link_name(key: PublicKey) -> str:
    """in-toto's file name for a link: the step and the first eight digits of the key id."""
    return f"{STEP}.{key.keyid[:8]}.link"


def link_of(statement: Statement) -> dict[str, Any]:
    """The link that says what a statement says about artifacts."""
    return {
        "_type": "link",
        "name": STEP,
        "command": COMMAND,
        "materials": {
            "source-tree": {"sha256": statement.tree_sha256},
            "image.lock": {"sha256": statement.lock_sha256},
        },
        "products": statement.products,
        "byproducts": {},
        "environment": {},
    }


def sign_link(statement: Statement, signer: Signer) -> bytes:
    """The signed link (classic Metablock)."""
    link = link_of(statement)
    return metablock(link, [_signature(signer.public, signer.sign(encode_olpc(link)))])


def layout_of(members: MembersFile) -> dict[str, Any]:
    """The members file as a layout, as far as in-toto can express it: keys, threshold, expiry.

    in-toto has no groups, rounds, freshness or dissent. There are no inspections: nothing is executed.
    """
    keys = {key.keyid: key.sslib() for member in members.members for key in member.keys}
    step = {
        "_type": "step",
        "name": STEP,
        "threshold": members.threshold,
        "pubkeys": list(keys),
        "expected_command": COMMAND,
        "expected_materials": [["ALLOW", "source-tree"], ["ALLOW", "image.lock"], ["DISALLOW", "*"]],
        "expected_products": [["ALLOW", "*/image*.eif"], ["ALLOW", "*/PCR?"], ["DISALLOW", "*"]],
    }
    return {
        "_type": "layout",
        "steps": [step],
        "inspect": [],
        "keys": keys,
        "expires": utc(members.expires),
        "readme": README,
    }


def layout_name(members: MembersFile, member: str) -> str:
    """Where a member's signature on the layout is."""
    return f"layout.{members.version}.{member}.json"


def sign_layout(
    members: MembersFile, member: str, signer: Signer, earlier: bytes | None = None
) -> bytes | None:
    """The layout with the member's signature beside those of its other keys in ``earlier``.

    Nothing else of ``earlier`` is taken over. None when the key is not the member's in this version: in-toto
    knows no earlier ones.
    """
    party = members.member(member)
    if party is None or signer.public not in party.keys:
        return None
    layout = layout_of(members)
    others = layout_signatures(earlier, layout, party.keys) if earlier is not None else []
    signature = _signature(signer.public, signer.sign(encode_olpc(layout)))
    return joined_layout(
        layout, [*(item for item in others if item["keyid"] != signature["keyid"]), signature]
    )


def joined_layout(layout: Mapping[str, Any], signatures: Sequence[Mapping[str, str]]) -> bytes:
    """A layout with signatures, in the order of their key ids."""
    return metablock(layout, sorted(signatures, key=lambda item: item["keyid"]))


def members_signatures(evidence: Evidence, members: MembersFile) -> list[dict[str, str]]:
    """Every member's good signatures on the layout, each from that member's own file."""
    layout = layout_of(members)
    found = []
    for member in members.members:
        data = read_or_none(evidence, layout_name(members, member.name), MAX_LAYOUT)
        if data is not None:
            found += layout_signatures(data, layout, member.keys)
    return found


def layout_signatures(
    data: bytes, layout: Mapping[str, Any], keys: Sequence[PublicKey]
) -> list[dict[str, str]]:
    """The signatures in a layout file that are good for ``layout``; an unreadable file has none."""
    try:
        signatures = _signatures(Fields(parse(data, max_size=MAX_LAYOUT), ""), limit=4096)
    except Rejected:
        return []
    message = encode_olpc(layout)
    good = []
    for key in keys:
        signature = signatures.get(key.keyid)
        if signature is not None and key.verifies(signature, message):
            good.append(_signature(key, signature))
    return good


def filtered(evidence: Evidence, members: MembersFile, agreeing: tuple[Answer, ...]) -> dict[str, bytes]:
    """The links that may reach in-toto, by file name: at most one for each member that agrees.

    A link counts when it is exactly the member's own statement as a link, with a good signature. The file
    is written anew; nothing of the original is passed on but the signature.
    """
    found: dict[str, bytes] = {}
    for answer in agreeing:
        member = members.member(answer.member)
        if member is None or answer.statement is None:
            continue
        link = link_of(answer.statement)
        for key in member.keys:
            signature = _link_signature(evidence, key, link)
            if signature is not None:
                found[link_name(key)] = metablock(link, [_signature(key, signature)])
                break
    return found


def _link_signature(evidence: Evidence, key: PublicKey, link: Mapping[str, Any]) -> bytes | None:
    try:
        fields = Fields(parse(evidence.read(link_name(key), MAX_LINK), max_size=MAX_LINK), "")
        signature = _signatures(fields, limit=16).get(key.keyid)
    except Rejected:
        return None
    message = encode_olpc(link)
    same = encode_olpc(fields.values.get("signed")) == message
    return signature if same and signature is not None and key.verifies(signature, message) else None


def _signatures(fields: Fields, *, limit: int) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in fields.each("signatures", high=limit):
        keyid = entry.text("keyid")
        try:
            found[keyid] = bytes.fromhex(entry.text("sig", limit=4096))
        except ValueError:
            raise Rejected(f"{entry.at('sig')}: not hex") from None
    return found


def _signature(key: PublicKey, signature: bytes) -> dict[str, str]:
    return {"keyid": key.keyid, "sig": signature.hex()}


def metablock(signed: Mapping[str, Any], signatures: Sequence[Mapping[str, str]]) -> bytes:
    """A link or layout with its signatures, written as in-toto's Metablock writes itself."""
    block = {"signatures": signatures, "signed": signed}
    return (json.dumps(block, indent=1, separators=(",", ": "), sort_keys=True) + "\n").encode()
