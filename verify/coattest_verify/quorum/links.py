"""The same rebuild as classic in-toto links and a layout: stock ``in-toto-verify`` gives a second opinion.

What in-toto 3.1 does with hostile files (docs/quorum.md: it executes a layout's inspections, counts one key
under two ids twice, accepts links of other steps) never happens: ``filtered`` hands on only links that it
could have written itself from a statement that counts, signature aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from in_toto.models.layout import Layout, Step
from in_toto.models.link import Link
from in_toto.models.metadata import Metablock
from securesystemslib.formats import encode_canonical

from coattest.directory import Evidence
from coattest.errors import Rejected
from coattest.strictjson import Fields, parse
from coattest_verify.quorum.members.file import MembersFile, utc
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.quorum.tally import Answer
from coattest_verify.signatures.keys import PublicKey

STEP = "rebuild"
LAYOUT_FILE = "root.layout"
MAX_LINK = 256 * 1024
"""Bytes of a link; two profiles have about 3 kB."""

README = "Rebuilds of a coattest image. The decision is made by verify quorum; this is a second opinion."


def link_name(key: PublicKey) -> str:
    """in-toto's file name for a link: the step and the first eight digits of the key id."""
    return f"{STEP}.{key.keyid[:8]}.link"


def link_of(statement: Statement) -> Link:
    """The link that says what a statement says about artifacts."""
    products: dict[str, dict[str, str]] = {}
    for profile, result in sorted(statement.profiles.items()):
        products[f"{profile}/{result.name}"] = {"sha256": result.sha256, "sha384": result.sha384}
        for index, value in enumerate(result.pcrs):
            products[f"{profile}/PCR{index}"] = {"sha384": value}
    return Link(
        name=STEP,
        command=["verify", "rebuild"],
        materials={
            "source-tree": {"sha256": statement.tree_sha256},
            "image.lock": {"sha256": statement.lock_sha256},
        },
        products=products,
    )


def sign_link(statement: Statement, signer: Any) -> bytes:
    """The signed link (classic Metablock)."""
    return _signed(link_of(statement), signer)


def layout_of(members: MembersFile) -> Layout:
    """The members file as a layout, as far as in-toto can express it: keys, threshold, expiry.

    in-toto has no groups, rounds, freshness or dissent. There are no inspections: nothing is executed.
    """
    keys = {key.keyid: key.sslib() for member in members.members for key in member.keys}
    step = Step(
        name=STEP,
        threshold=members.threshold,
        pubkeys=list(keys),
        expected_command=["verify", "rebuild"],
        expected_materials=[["ALLOW", "source-tree"], ["ALLOW", "image.lock"], ["DISALLOW", "*"]],
        expected_products=[["ALLOW", "*/image*.eif"], ["ALLOW", "*/PCR?"], ["DISALLOW", "*"]],
    )
    return Layout(steps=[step], inspect=[], keys=keys, expires=utc(members.expires), readme=README)


def sign_layout(members: MembersFile, signer: Any, earlier: bytes | None = None) -> bytes:
    """The members file's layout with this signer's signature beside the valid ones of ``earlier``.

    Nothing else of ``earlier`` is taken over.
    """
    layout = layout_of(members)
    block = Metablock(signed=layout, signatures=[])
    keys = [key for member in members.members for key in member.keys]
    if earlier is not None:
        block.signatures = layout_signatures(earlier, layout, keys)
    signature = signer.sign(layout.signable_bytes).to_dict()
    block.signatures = [item for item in block.signatures if item["keyid"] != signature["keyid"]]
    block.signatures.append(signature)
    block.signatures.sort(key=lambda item: str(item["keyid"]))
    return _bytes(block)


def layout_signatures(data: bytes, layout: Layout, keys: list[PublicKey]) -> list[dict[str, str]]:
    """The signatures in a layout file that are good for ``layout``; an unreadable file has none."""
    try:
        signatures = _signatures(Fields(parse(data, max_size=MAX_LINK * 4), ""), limit=4096)
    except Rejected:
        return []
    message = layout.signable_bytes
    good = []
    for key in keys:
        signature = signatures.get(key.keyid)
        if signature is not None and key.verifies(signature, message):
            good.append({"keyid": key.keyid, "sig": signature.hex()})
    return good


def layout_with(layout: Layout, signatures: list[dict[str, str]]) -> bytes:
    """A layout file with signatures that ``layout_signatures`` found good."""
    return _bytes(Metablock(signed=layout, signatures=signatures))


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
                block = Metablock(signed=link, signatures=[{"keyid": key.keyid, "sig": signature.hex()}])
                found[link_name(key)] = _bytes(block)
                break
    return found


def _link_signature(evidence: Evidence, key: PublicKey, link: Link) -> bytes | None:
    try:
        fields = Fields(parse(evidence.read(link_name(key), MAX_LINK), max_size=MAX_LINK), "")
        signature = _signatures(fields, limit=16).get(key.keyid)
    except Rejected:
        return None
    message: bytes = link.signable_bytes
    same = str(encode_canonical(fields.values.get("signed"))).encode() == message
    return signature if same and signature is not None and key.verifies(signature, message) else None


def _signatures(fields: Fields, *, limit: int) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for index, item in enumerate(fields.items("signatures", high=limit)):
        entry = Fields(item, f"signatures[{index}]")
        keyid = entry.text("keyid")
        try:
            found[keyid] = bytes.fromhex(entry.text("sig", limit=4096))
        except ValueError:
            raise Rejected(f"signatures[{index}].sig: not hex") from None
    return found


def _signed(signed: Link | Layout, signer: Any) -> bytes:
    block = Metablock(signed=signed, signatures=[])
    block.create_signature(signer)
    return _bytes(block)


def _bytes(block: Metablock) -> bytes:
    return f"{block}\n".encode()
