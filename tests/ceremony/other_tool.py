"""aics-tlog reads the ceremony's log: a program of other people, by C2SP's pages alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import aics_tlog as theirs
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ceremony.table import Table
from coattest_verify.quorum.log.checkpoint import log_key, origin_of
from coattest_verify.quorum.members.chain import follow
from coattest_verify.signatures.keys import SCHEMES


def check(table: Table) -> int:
    """It accepts the log's signature, the whole notes of Ed25519 members, and each entry's inclusion.

    Returns the number of entries. Members with other keys sign a type that C2SP has no number for.
    """
    with table.common.files_at(table.tip) as files:
        chain = follow(files, table.quorum.root, seen=None, now=table.clock)
        log = {name: files.read(name) for name in files.entries if name.startswith("log/")}
    origin = origin_of(table.quorum.root, chain.restart)
    witnesses, lines = [], b""
    head = log["log/checkpoint"].partition(b"\n\n")[0]
    for member in table.quorum.file.members:
        body, _, signed = log[f"log/cosignature.{member.name}"].partition(b"\n\n")
        key = load_der_public_key(member.keys[0].spki)
        if member.keys[0].scheme == SCHEMES["ed25519"] and body == head:
            witnesses.append(theirs.cosignature_vkey(member.name, key.public_bytes_raw()))
            lines += signed
    note = theirs.parse_note(log["log/checkpoint"] + lines)
    signer = theirs.vkey_from_ed25519(origin, log_key(origin).public_key())
    verdict = theirs.verify_checkpoint(note, signer, witnesses, len(witnesses), expected_origin=origin)
    assert verdict.ok, verdict.error
    assert len(witnesses) >= 2
    found = theirs.parse_checkpoint(note.text)
    with tempfile.TemporaryDirectory() as name:
        for path, content in log.items():
            place = Path(name) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        reader = theirs.FileSystemTileReader(Path(name) / "log")
        assert theirs.tree_root_from_tiles(reader, found.size) == found.root
        for index in range(found.size):
            entry = theirs.leaf_hash(theirs.read_entry(reader, index, found.size))
            proof = theirs.inclusion_proof_from_tiles(reader, index, found.size)
            assert theirs.verify_inclusion(entry, index, found.size, proof, found.root)
    return int(found.size)
