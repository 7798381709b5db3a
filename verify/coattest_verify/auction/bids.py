"""A buyer's bids: from a CSV file to one encrypted file that only the decided enclave can open.

The buyer makes a data key for each bid file itself and has it encrypted under its own KMS key
(``kms:Encrypt``), bound to the manifest, the buyer, its own seal key and the decided image by KMS's
encryption context. Each lot has a record of fixed width, so that the length of the file
reveals nothing. No function here puts an amount in an error, a log or a value that is printed by default.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coattest.errors import EnvironmentFailure, UsageError
from coattest.findings import Finding
from coattest_verify.auction import messages
from coattest_verify.auction.certify import Own

CSV_MAX = 256 * 1024 * 1024
"""Bytes of a CSV file: 1,000,000 lots of 64-character names with 16-digit amounts are 82 MB."""

DATA_KEY_SIZE = 32
"""Bytes of an AES-256 key."""

FINDINGS_MAX = 20
"""Findings of a CSV file that are reported one by one; the others are only counted."""

_AMOUNT = re.compile(r"[1-9][0-9]{0,15}")


class BadBids(UsageError):
    """A bids file without exactly one valid entry per lot; ``findings`` are the first of ``count``."""

    default_code = "bad-bids"

    def __init__(
        self, what: str, *, where: str | None = None, findings: Sequence[Finding] = (), count: int = 1
    ) -> None:
        super().__init__(what, where=where, findings=findings)
        self.count = count


class KeyWrapper(Protocol):
    """The only KMS call that a bidder needs, as boto3 has it (KMS API reference, Encrypt)."""

    @property
    def encrypt(self) -> Callable[..., Mapping[str, Any]]:
        """Encrypt, whose answer has ``CiphertextBlob`` and ``KeyId``."""
        ...


@dataclass(frozen=True, slots=True)
class Bids:
    """Amounts in minor units, in the manifest's order of lots; 0 means no bid. ``repr`` leaves them out."""

    amounts: tuple[int, ...] = field(repr=False)
    below_reserve: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many lots have a bid."""
        return sum(1 for amount in self.amounts if amount)


def read_bids(content: bytes, lots: Sequence[tuple[str, int]]) -> Bids:
    """The bids of a CSV file with the header ``lot,amount``; ``lots`` are the manifest's (id, reserve).

    It names every lot of the manifest exactly once; an empty amount means no bid on that lot. An amount is a
    whole number of minor units without sign, separator or leading zero. Raises BadBids with everything that
    is wrong.
    """
    if len(content) > CSV_MAX:
        raise BadBids(f"larger than {CSV_MAX} bytes")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBids(f"not UTF-8 at byte {error.start}") from None
    # Decoded a second time while reading: a StringIO of a million lots would take four bytes per character.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""), strict=True)
    position = {lot: index for index, (lot, _) in enumerate(lots)}
    amounts: list[int | None] = [None] * len(lots)
    findings = _Findings()
    try:
        if next(reader, None) != ["lot", "amount"]:
            raise BadBids("the first line is not 'lot,amount'", where="line 1")
        for row in reader:
            _read_row(row, reader.line_num, position, amounts, findings)
    except csv.Error as error:
        # The rest cannot be read, so lots may be in it that look missing.
        findings.add(f"line {reader.line_num}", f"not CSV: {error}")
        findings.check()
    for lot, index in position.items():
        if amounts[index] is None:
            findings.add("bids file", f"lot {lot!r} is missing (an empty amount means no bid)")
    findings.check()
    values = tuple(amount or 0 for amount in amounts)
    below = tuple(
        lot for (lot, reserve), amount in zip(lots, values, strict=True) if amount and amount < reserve
    )
    return Bids(values, below)


def make_bid_file(manifest: messages.Manifest, own: Own, image: bytes, bids: Bids, kms: KeyWrapper) -> bytes:
    """The encrypted bid file of ``own``: COSE_Encrypt0 under a fresh data key, which the buyer's own KMS key
    wraps for this manifest, this buyer under its own seal key, and ``image`` (PCR0, 48 bytes).

    Raises EnvironmentFailure when KMS answers for a different key, or without a ciphertext.
    """
    bound = messages.Binding(manifest.digest, own.name, own.seal_key, image, own.kms)
    key = os.urandom(DATA_KEY_SIZE)
    reply = kms.encrypt(KeyId=own.kms, Plaintext=key, EncryptionContext=bound.context)
    blob, key_id = reply.get("CiphertextBlob"), reply.get("KeyId")
    if key_id != own.kms:
        raise EnvironmentFailure(
            f"KMS answered for {key_id!r}",
            where=own.kms,
            hint="the manifest must name the key's ARN, not an alias",
            code="kms-wrong-key",
        )
    if not isinstance(blob, bytes) or not blob:
        raise EnvironmentFailure("KMS's reply has no ciphertext", where=own.kms, code="kms-failed")
    return messages.encrypt0(messages.pack_bids(bids.amounts), key, wrapped_key=blob, external_aad=bound.aad)


@dataclass(slots=True)
class _Findings:
    first: list[Finding] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, detail: str) -> None:
        self.count += 1
        if len(self.first) < FINDINGS_MAX:
            self.first.append(Finding("bad-bids", where, detail))

    def check(self) -> None:
        if self.count:
            told = [f"{finding.where}: {finding.detail}" for finding in self.first]
            if more := self.count - len(self.first):
                told.append(f"and {more} more")
            raise BadBids("; ".join(told), findings=self.first, count=self.count)


def _read_row(
    row: list[str], line: int, position: Mapping[str, int], amounts: list[int | None], findings: _Findings
) -> None:
    where = f"line {line}"
    if len(row) != 2:
        findings.add(where, f"{len(row)} fields instead of 2")
        return
    lot, amount = row
    index = position.get(lot)
    if index is None:
        # The fields may be swapped: only what cannot be an amount is repeated.
        named = repr(lot) if _is_amount(amount) and _looks_like_a_lot(lot) else "the first field"
        findings.add(where, f"{named} is not a lot of the manifest")
    elif amounts[index] is not None:
        findings.add(where, f"lot {lot!r} appears twice")
    elif not amount:
        amounts[index] = 0
    elif not _is_amount(amount):
        # The message does not repeat the amount, because messages end up in logs and tickets.
        amounts[index] = 0
        most = messages.AMOUNT_MAX
        findings.add(where, f"lot {lot!r}: not a whole number of minor units from 1 to {most}")
    else:
        amounts[index] = int(amount)


def _looks_like_a_lot(text: str) -> bool:
    try:
        messages.make_lots([(text, 0)])
    except messages.MessageError:
        return False
    return any(letter.isalpha() for letter in text)


def _is_amount(text: str) -> bool:
    return _AMOUNT.fullmatch(text) is not None and int(text) <= messages.AMOUNT_MAX
