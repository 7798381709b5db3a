"""Links and layouts are written here, and are what in-toto would have written."""

from __future__ import annotations

import json

from in_toto.models.layout import Layout
from in_toto.models.link import Link
from in_toto.models.metadata import Metablock

from coattest_verify.quorum.links import layout_of, link_of, sign_layout, sign_link
from coattest_verify.signatures.olpc import encode_olpc
from support.verify.members import Members, report_json


def test_links_and_layouts_are_what_in_toto_writes(three: Members) -> None:
    """Read by in-toto, each gives the same bytes to sign, and is written with the same bytes."""
    statement = three.statement("buyer-1", report_json())
    signer = three.signers["buyer-1"]
    for signed, kind, file in (
        (link_of(statement), Link, sign_link(statement, signer)),
        (layout_of(three.file), Layout, sign_layout(three.file, "buyer-1", signer) or b""),
    ):
        read = kind.read(json.loads(json.dumps(signed)))
        assert encode_olpc(signed) == read.signable_bytes
        block = Metablock.from_dict(json.loads(file))
        assert file == f"{block}\n".encode()
        block.verify_signature(signer.public.sslib())
