"""A buyer's bids: from a CSV file to one encrypted file that only the decided enclave can open.

One data key per buyer and auction (``kms:GenerateDataKey``), bound by KMS's encryption context to the
manifest's digest and the buyer's name; one record of fixed width per lot, so that the file's length says
nothing. No function here puts an amount in an error, a log or a return value that is printed by default.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest_enclave.protocol import cose, messages

CSV_MAX = 256 * 1024 * 1024
"""Bytes of a CSV file: 1,000,000 lots of 64-character names with 16-digit amounts are 82 MB."""

PROBLEMS_MAX = 20
"""Problems of a CSV file reported at once; more are counted."""


class BadBids(UsageError):
    """A bids file that does not say one thing about each lot; ``problems`` are the first of ``count``."""

    default_code = "bad-bids"

    def __init__(
        self, what: str, *, where: str | None = None, problems: tuple[str, ...] = (), count: int = 1
    ) -> None:
        super().__init__(what, where=where)
        self.problems, self.count = problems, count


class KmsFailure(EnvironmentFailure):
    """KMS did not give a data key."""

    default_code = "kms-failed"


class DataKeys(Protocol):
    """The one KMS call a buyer makes; a boto3 KMS client has it (KMS API reference, GenerateDataKey)."""

    @property
    def generate_data_key(self) -> Callable[..., Mapping[str, Any]]:
        """GenerateDataKey: its answer has ``Plaintext`` and ``CiphertextBlob``."""
        ...


@dataclass(frozen=True, slots=True)
class Bids:
    """Amounts in minor units, in the manifest's order of lots; 0 means no bid. Amounts stay out of
    ``repr``.
    """

    amounts: tuple[int, ...] = field(repr=False)
    below_reserve: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many lots carry a bid."""
        return sum(1 for amount in self.amounts if amount)


def read_bids(content: bytes, lots: Sequence[tuple[str, int]]) -> Bids:
    """The bids of a CSV file with the header ``lot,amount``; ``lots`` are the manifest's (id, reserve).

    Every lot of the manifest stands there exactly once; an empty amount means no bid on it. An amount is a
    whole number of minor units without sign, separator or leading zero. Raises BadBids with every problem at
    once.
    """
    if len(content) > CSV_MAX:
        raise BadBids(f"larger than {CSV_MAX} bytes")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBids(f"not UTF-8 at byte {error.start}") from None
    # Decoded again as it is read: a StringIO of a million lots would hold four bytes per character.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""), strict=True)
    position = {lot: index for index, (lot, _) in enumerate(lots)}
    amounts: list[int | None] = [None] * len(lots)
    problems = _Problems()
    try:
        if next(reader, None) != ["lot", "amount"]:
            raise BadBids("the first line is not 'lot,amount'", where="line 1")
        for row in reader:
            _read_row(row, reader.line_num, position, amounts, problems)
    except csv.Error as error:
        # What follows cannot be read, so nothing is said about lots that may stand there.
        problems.add(f"line {reader.line_num}: not CSV: {error}")
        problems.check()
    for lot, index in position.items():
        if amounts[index] is None:
            problems.add(f"lot {lot!r} is missing (an empty amount means no bid)")
    problems.check()
    values = tuple(amount or 0 for amount in amounts)
    below = tuple(
        lot for (lot, reserve), amount in zip(lots, values, strict=True) if amount and amount < reserve
    )
    return Bids(values, below)


def make_bid_file(manifest: messages.Manifest, buyer: str, bids: Bids, kms: DataKeys) -> bytes:
    """The encrypted bid file of ``buyer``: COSE_Encrypt0 under a fresh data key of the buyer's own KMS key.

    Raises KmsFailure when KMS refuses, or answers for another key than the manifest names.
    """
    arn = buyer_of(manifest, buyer).kms
    context = messages.encryption_context(manifest.digest, buyer)
    reply = kms.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=context)
    blob, key, key_id = reply.get("CiphertextBlob"), reply.get("Plaintext"), reply.get("KeyId")
    if key_id != arn:
        raise KmsFailure(
            f"KMS answered for {key_id!r}",
            where=arn,
            hint="the manifest must name the key's ARN, not an alias",
            code="kms-other-key",
        )
    if not isinstance(key, bytes) or len(key) != 32 or not isinstance(blob, bytes) or not blob:
        raise KmsFailure("KMS's reply holds no AES-256 data key", where=arn)
    return cose.encrypt0(
        messages.pack_bids(bids.amounts),
        key,
        wrapped_key=blob,
        external_aad=messages.bid_aad(manifest.digest, buyer, arn),
    )


def buyer_of(manifest: messages.Manifest, name: str) -> messages.Buyer:
    """The manifest's entry of a buyer; raises FoundFalse when there is none."""
    for buyer in manifest.buyers:
        if buyer.name == name:
            return buyer
    raise FoundFalse(f"{name!r} is not a buyer of this manifest", code="not-a-buyer")


@dataclass(slots=True)
class _Problems:
    found: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(problem)

    def check(self) -> None:
        if self.count:
            more = f"; and {self.count - len(self.found)} more" if self.count > len(self.found) else ""
            raise BadBids("; ".join(self.found) + more, problems=tuple(self.found), count=self.count)


def _read_row(
    row: list[str], line: int, position: Mapping[str, int], amounts: list[int | None], problems: _Problems
) -> None:
    if len(row) != 2:
        problems.add(f"line {line}: {len(row)} fields instead of 2")
        return
    lot, amount = row
    index = position.get(lot)
    if index is None:
        # An amount may stand in the lot's place: only what cannot be one is repeated.
        named = repr(lot) if _is_amount(amount) and _looks_like_a_lot(lot) else "the first field"
        problems.add(f"line {line}: {named} is not a lot of the manifest")
    elif amounts[index] is not None:
        problems.add(f"line {line}: lot {lot!r} stands there twice")
    elif not amount:
        amounts[index] = 0
    elif not _is_amount(amount):
        # The amount itself stays out of the message: messages end up in logs and tickets.
        amounts[index] = 0
        most = messages.AMOUNT_MAX
        problems.add(f"line {line}: lot {lot!r}: not a whole number of minor units from 1 to {most}")
    else:
        amounts[index] = int(amount)


def _looks_like_a_lot(text: str) -> bool:
    try:
        messages.Lots.of([(text, 0)])
    except messages.MessageError:
        return False
    return any(letter.isalpha() for letter in text)


def _is_amount(text: str) -> bool:
    return (
        text.isascii()
        and text.isdigit()
        and not text.startswith("0")
        and len(text) <= 16
        and int(text) <= messages.AMOUNT_MAX
    )
