"""Members at their desks, before a folder of attestations that somebody else hosts."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coattest_verify.quorum.members.file import MembersFile
from support.verify.desk import Desk
from support.verify.members import Members, claim_json, report_json

NAMES = ("buyer-1", "buyer-2", "buyer-3")


class SigningWorld:
    """A quorum, and a desk for one of its members; every program's option for the folder and the key."""

    def __init__(
        self, folder: Path, names: Sequence[str] = ("buyer-1", "buyer-2", "buyer-3"), **rules: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.quorum = Members.make(folder, names, **{"threshold": 2, "dissent": "report", **rules})
        self.desk = self.new_desk("desk")
        self.report = report_json()

    def new_desk(self, name: str) -> Desk:
        """A machine of its own: other state, other memory."""
        (self.folder / name).mkdir(exist_ok=True)
        return Desk(self.folder / name, silent=True)

    @property
    def attestations(self) -> Path:
        """What the host shows."""
        return self.quorum.attestations

    @property
    def released(self) -> Path:
        """The folder of the release that was claimed last."""
        return self.quorum.released

    @property
    def root(self) -> tuple[str, str]:
        """The option with the pinned root."""
        return ("--root", f"sha256:{self.quorum.root.hex()}")

    def who(self, name: str) -> tuple[str, ...]:
        """The options of a member that signs."""
        key = str(self.quorum.key(name.replace("/", "-key-")))
        return ("--key", key, "--member", name.partition("/")[0], "--attestations", str(self.attestations))

    def propose(self, file: MembersFile) -> str:
        """Let the host show a proposal; the option that expects it."""
        self.quorum.write("quorum.next.toml", file.raw)
        return f"sha256:{file.sha256}"

    def claim(self, **changes: Any) -> bytes:
        """Publish the claim of a rebuild; its bytes."""
        self.report = report_json(**changes)
        self.quorum.claim(self.report)
        return (self.released / "claim.json").read_bytes()

    @property
    def claimed(self) -> str:
        """The option's value that expects the claim."""
        assert self.quorum.claimed is not None
        return f"sha256:{self.quorum.claimed.sha256}"

    def built(self, out: str = "out", seed: bytes = b"good", *, own: bool = True) -> None:
        """Images at the desk, made by its own tool or not, and their claim."""
        self.report = self.desk.images(out, seed, own=own)
        self.quorum.claim(self.report)

    def files(self) -> dict[str, bytes]:
        """Everything in the folder."""
        return {
            str(path.relative_to(self.attestations)): path.read_bytes()
            for path in sorted(self.attestations.rglob("*"))
            if path.is_file()
        }

    def signed(self, pattern: str) -> Any:
        """The payload, as JSON, of the one envelope in the folder with such a name."""
        (path,) = self.attestations.rglob(pattern)
        payload = base64.b64decode(json.loads(path.read_bytes())["payload"])
        return json.loads(payload) if payload.startswith(b"{") else payload

    def publish(self, report: dict[str, Any]) -> None:
        """Put the claim of a report into the folder, as the host may at any time."""
        (self.released / "claim.json").write_text(json.dumps(claim_json(report)))
