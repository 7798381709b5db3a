"""A fleet of enclaves that the tests make themselves: documents, what is decided, and FLEET.toml."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coattest_verify.fleet.file import load_fleet
from coattest_verify.fleet.judge import DECIDED, ExpectedRelease
from coattest_verify.fleet.look import Look, Watcher
from coattest_verify.fleet.reach import Clients, no_aws
from support.verify.nitro_ca import NOW, NOW_MS, PCRS, document, usual_chain

SECOND = timedelta(seconds=1)
IMAGE_PCRS = {index: PCRS[index] for index in (0, 1, 2)}
OTHER_PCRS = {index: bytes([0x90 + index]) * 48 for index in (0, 1, 2)}
OTHERS = {**PCRS, **OTHER_PCRS}


def module(number: int) -> str:
    """The module id of an enclave on an instance of its own."""
    return f"i-{number:017x}-enc{number:016x}"


def shown_by(number: int, **changes: Any) -> bytes:
    """A document of that enclave, as of NOW and without a nonce."""
    return document(**{"module_id": module(number), "nonce": None, **changes})


def files_toml(**changes: Any) -> str:
    """One source of files in the folder ``documents``."""
    fields = {"name": "parents", "kind": "file", "path": "documents", "releases": ["0.1.0"], "count": 2}
    return fleet_toml({**fields, **changes})


def fleet_toml(*sources: dict[str, Any]) -> str:
    """A FLEET.toml of these sources; fields that are None are left out."""
    lines = ['format = "coattest-fleet/v1"']
    for source in sources:
        lines.append("[[source]]")
        for name, value in source.items():
            if value is not None:
                # JSON's texts, numbers and arrays of texts are TOML's too.
                shown = str(value).replace("'", '"') if isinstance(value, list) else value
                lines.append(f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {shown}")
    return "\n".join(lines) + "\n"


@dataclass
class FleetWorld:
    """A folder with FLEET.toml and ``documents``, a clock that the test sets, and what is decided."""

    folder: Path
    now: datetime = NOW
    answers: dict[str, tuple[str, dict[int, bytes]]] = field(
        default_factory=lambda: {"0.1.0": (DECIDED, IMAGE_PCRS)}
    )
    again: bool = False
    clients: Clients = no_aws
    keeps_state: bool = True

    def put(self, name: str, data: bytes) -> None:
        """A file among the documents."""
        (self.folder / "documents").mkdir(exist_ok=True)
        (self.folder / "documents" / name).write_bytes(data)

    def drop(self, name: str) -> None:
        """Remove it again."""
        (self.folder / "documents" / name).unlink()

    def write(self, text: str) -> Path:
        """FLEET.toml."""
        path = self.folder / "FLEET.toml"
        path.write_text(text)
        return path

    def decide(self, _now: datetime) -> dict[str, ExpectedRelease]:
        """What the quorum says."""
        return {name: ExpectedRelease(name, *what) for name, what in self.answers.items()}

    def watcher(self) -> Watcher:
        """One that remembers in a state file, unless told otherwise."""
        return Watcher(
            load_fleet(self.folder / "FLEET.toml"),
            self.decide,
            usual_chain().root,
            lambda: self.now,
            self.clients,
            state=self.folder / "state.json" if self.keeps_state else None,
            prometheus=self.folder / "fleet.prom",
            again=self.again,
        )

    def look(self) -> Look:
        """One look, by a watcher of its own."""
        return self.watcher().look()

    def renew(self, *numbers: int) -> None:
        """Fresh documents of these enclaves, in a file each."""
        for number in numbers:
            stamp = NOW_MS + int((self.now - NOW).total_seconds() * 1000)
            self.put(f"{number}.bin", shown_by(number, timestamp=stamp))


def statuses(look: Look) -> dict[str, str]:
    """What was found, by place."""
    return {row.key: row.status for row in look.rows}


def told(look: Look) -> list[tuple[str, str, str]]:
    """The changes, as kind, what and key."""
    return [(change.kind, change.what, change.key) for change in look.changes]
