"""What this user's keys have signed where only one thing may ever be signed.

A slot is a place for one signature: a version of the members file, the result of a release in a round, the
log's head at a size. The journal records what goes into a slot durably *before* the signature exists, and
from then on refuses anything else in it. The same again is fine.

A journal that was lost adopts what was published: a caller that finds its member's own good signature in the
attestations records that first (``adopted``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, Rejected
from coattest.files import state_folder
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.signatures.durable import DurableFolder, damaged_record

FORMAT = "coattest-signed/v1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_GIVEN_UP = 256
"""How often the content of one slot can be given up for another."""


class SignatureJournal:
    """One file per slot in ``signed`` in this user's state; safe against crashes and two processes."""

    def __init__(self, directory: Path | None = None) -> None:
        self._records = DurableFolder(directory or state_folder("signed"))

    def record(
        self,
        slot: Mapping[str, Any],
        digest: str,
        *,
        remedy: str,
        adopted: str | None = None,
        instead_of: str | None = None,
    ) -> None:
        """Make ``digest`` (SHA-256, hex) the only content of a slot; durable when this returns.

        ``adopted`` is the digest of what was published in this slot under the member's own key, if anything
        was. ``instead_of`` gives up exactly that digest. Raises FoundFalse (``already-signed``), which says
        the ``remedy``, for a slot with something else; EnvironmentFailure for a record that cannot be read.
        """
        content = canonical(slot)
        name = f"{hashlib.sha256(content).hexdigest()}.json"
        with self._records.locked():
            signed, given_up = self._read(name, slot)
            if signed is None and adopted is not None and adopted not in given_up:
                signed = adopted
                self._write(name, slot, signed, given_up)
            if signed == digest:
                self._records.sync(name)
                return
            if signed is not None:
                if signed != instead_of or len(given_up) >= MAX_GIVEN_UP:
                    place = ", ".join(f"{name} {value}" for name, value in slot.items())
                    raise FoundFalse(
                        f"sha256:{signed} was signed before in this place ({place})",
                        where=str(self._records.directory / name),
                        hint=remedy,
                        code="already-signed",
                    )
                given_up = (*given_up, signed)
            self._write(name, slot, digest, given_up)

    def signed(self, slot: Mapping[str, Any]) -> str | None:
        """The digest (hex) that is in a slot, None for an empty one. Raises EnvironmentFailure."""
        name = f"{hashlib.sha256(canonical(slot)).hexdigest()}.json"
        with self._records.locked():
            return self._read(name, slot)[0]

    def _write(self, name: str, slot: Mapping[str, Any], signed: str, given_up: tuple[str, ...]) -> None:
        values = {"format": FORMAT, "slot": dict(slot), "signed": signed, "given_up": list(given_up)}
        self._records.write(name, canonical(values) + b"\n")

    def _read(self, name: str, slot: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
        data = self._records.read(name)
        if data is None:
            return None, ()
        try:
            fields = Fields(parse(data), "")
            fields.exactly("format", FORMAT)
            if fields.anything("slot") != dict(slot):
                raise Rejected("it is about something else")
            signed = fields.text("signed", _SHA256)
            given_up = tuple(str(item) for item in fields.items("given_up", high=MAX_GIVEN_UP))
            fields.done()
        except Rejected as error:
            raise damaged_record(
                f"the record of an earlier signature: {error.what}",
                self._records.directory / name,
                "restore the file from a backup",
            ) from None
        return signed, given_up
