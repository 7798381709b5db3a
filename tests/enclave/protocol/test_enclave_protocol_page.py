"""docs/protocol.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from coattest.codes import CODES
from coattest_enclave.protocol import canonical, errors, fields, wire
from coattest_verify.auction import messages

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
PROSE = " ".join(PAGE.split())
VECTORS = Path(__file__).parent / "vectors"


def block(name: str) -> str:
    """The hexadecimal block that is marked with a vector's name."""
    match = re.search(rf"<!-- vector: {name} -->\n```\n([0-9a-f\n]+)```", PAGE)
    assert match is not None
    return match[1].replace("\n", "")


def test_the_pages_examples_are_the_vectors() -> None:
    """Bid, seal and frame are printed as they are in the vectors and on the wire."""
    assert block("bid") == json.loads((VECTORS / "bid.json").read_text())[0]["file"]
    assert block("seal") == json.loads((VECTORS / "seal.json").read_text())[0]["payload"]
    assert block("alive") == wire.encode_frame(wire.Frame(1, "alive", {"nonce": bytes(16)})).hex()


def test_the_page_names_every_purpose_code_and_frame_type() -> None:
    """Nothing that can be on the wire is missing from the page."""
    codes = set(get_args(errors.Code))
    purposes = {
        messages.MANIFEST,
        messages.BID,
        messages.SEAL,
        messages.RESULT,
        messages.RESULT_FILE,
        messages.ALIVE,
    }
    assert [name for name in sorted(codes | wire.TYPES) if f"`{name}`" not in PAGE] == []
    assert [purpose for purpose in sorted(purposes) if f'"{purpose}"' not in PAGE] == []


def test_every_code_of_an_error_frame_is_registered() -> None:
    """The parent reports the enclave's own code, so the registry has each of them."""
    assert set(get_args(errors.Code)) <= set(CODES)


def test_the_pages_numbers_are_the_codes() -> None:
    """Limits and name patterns are printed as the code has them."""
    assert f"`{fields.NAME.pattern}`" in PAGE
    assert f"`{fields.LOT_ID.pattern}`" in PAGE
    assert f"{wire.FRAME_MAX:,} bytes" in PROSE
    assert f"At most {canonical.DEPTH_MAX} containers deep, at most {canonical.ITEMS_MAX} items" in PROSE
    assert f"at most {canonical.SIZE_MAX >> 20} MiB" in PROSE
    assert f"1 to {fields.BUYERS_MAX}, sorted" in PAGE
    assert fields.LOTS_MAX == 2**20


def test_every_rule_names_a_test() -> None:
    """In the table of rules each row ends with a test that there is."""
    rows = [line for line in PAGE.split("## Rule by rule")[1].splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(test_[a-z_0-9]+)`", row.rsplit(" | ", 1)[1]) for row in rows]
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_[a-z_0-9]+)", path.read_text(), re.MULTILINE))
    assert rows
    assert [row for row, names in zip(rows, named, strict=True) if not names] == []
    assert {name for names in named for name in names} - there == set()
