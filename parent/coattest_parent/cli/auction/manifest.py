"""``auction manifest``."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.files import read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import err, json_option
from coattest_parent.cli.auction.options import moment
from coattest_parent.cli.auction.show import manifest_json
from coattest_parent.cli.options import FILE
from coattest_parent.link.channels import parse_number
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_buyer, make_manifest

LOTS_FILE_MAX = 64 << 20
"""Bytes of a lots file: IDS_MAX, and LOTS_MAX reserves of 16 digits with commas, quotes and line ends."""


def parse_lot(text: str) -> messages.Lot:
    """The lot of ``ID`` or ``ID:RESERVE``. An id that ends in a colon and digits needs a reserve."""
    head, colon, tail = text.rpartition(":")
    if colon and tail.isascii() and tail.isdigit():
        return messages.Lot(head, parse_reserve(tail, "--lot"))
    return messages.Lot(text, 0)


def parse_reserve(digits: str, where: str) -> int:
    """A reserve in minor units; raises UsageError for anything but an amount."""
    reserve = parse_number(digits, messages.AMOUNT_MAX)
    if reserve is None:
        raise UsageError(f"not a reserve from 0 to {messages.AMOUNT_MAX}", where=where, code="bad-lots")
    return reserve


def read_lots(path: Path) -> list[messages.Lot]:
    """The lots of a CSV file with the header ``lot,reserve``; an empty reserve means none.

    Raises UsageError.
    """
    lots = []
    content = io.BytesIO(read_whole(path, LOTS_FILE_MAX))
    with io.TextIOWrapper(content, encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            if next(rows, None) != ["lot", "reserve"]:
                raise UsageError("the first line is not 'lot,reserve'", where=str(path))
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if len(row) != 2:
                    raise UsageError("not 'lot,reserve'", where=where)
                lots.append(messages.Lot(row[0], parse_reserve(row[1] or "0", where)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"not CSV: {error}", where=str(path)) from None
    return lots


@click.command("manifest")
@click.option("--auction", required=True, help="The auction's id.")
@click.option(
    "--rule",
    type=click.Choice(sorted(messages.DISCLOSURE)),
    default="first-price",
    show_default=True,
    help="Who pays what, and what the result reveals (docs/protocol.md).",
)
@click.option("--currency", required=True, help="Three letters; amounts are in minor units of it.")
@click.option("--lot", "lots", multiple=True, help="A lot, with its reserve in minor units: ID[:RESERVE].")
@click.option("--lots", "lots_file", type=FILE, help="More lots, as CSV: lot,reserve.")
@click.option("--buyer", "buyers", type=FILE, multiple=True, required=True, help="A buyer's record.")
@click.option(
    "--closes",
    callback=moment,
    required=True,
    help="When bids close: 20m, 6h or 3d from now, ISO 8601 with zone, or Unix seconds.",
)
@click.option("--publish-by", callback=moment, required=True, help="Publication deadline, in the same form.")
@click.option("--out", type=NEW_FILE, required=True, help="Where to write the manifest.")
@json_option
def manifest_command(
    *,
    auction: str,
    rule: str,
    currency: str,
    lots: tuple[str, ...],
    lots_file: Path | None,
    buyers: tuple[Path, ...],
    closes: int,
    publish_by: int,
    out: Path,
    as_json: bool,
) -> None:
    """Make an auction's manifest.

    Its digest identifies the auction.
    """
    made = make_manifest(
        auction=auction,
        rule=rule,
        currency=currency,
        lots=[*map(parse_lot, lots), *(read_lots(lots_file) if lots_file else [])],
        buyers=[load_buyer(path) for path in buyers],
        closes=closes,
        publish_by=publish_by,
    )
    write_atomic(out, made.encode())
    if as_json:
        emit_json(manifest_json(made))
    else:
        names = ", ".join(buyer.name for buyer in made.buyers)
        err().print(f"{out}: {made.auction}, {len(made.lots)} lots, buyers {names}")
        err().print(f"digest {made.digest.hex()}")
