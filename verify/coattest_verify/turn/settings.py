"""Where a quorum's git repository is, according to this user: ``turn.toml`` in the user's configuration.

Nothing that was fetched has a say in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coattest.errors import Rejected
from coattest.files import config_folder, given_file, read_whole
from coattest.strictjson import Fields, shown
from coattest.text import parse_toml

SETTINGS_FILE = "turn.toml"
FORMAT = "coattest-turn/v1"
MAX_SETTINGS = 16 * 1024

_URL = re.compile(
    r"(?:https|ssh|file)://[!-~]{1,1000}|/[!-~]{1,1000}|[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,255}:[!-~]{1,700}"
)
"""What git takes as an address without starting a program that the address names (``ext::`` does)."""
_BRANCH = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|[./](?=[A-Za-z0-9_-])){0,200}")


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """The repository's address, the branch that counts, and the folder of attestations in it.

    Without ``push`` the member's files go to a branch of its own, at ``hand_in``.
    """

    url: str
    branch: str = "main"
    folder: str = "attestations"
    push: bool = True
    hand_in: str = ""

    @property
    def own_url(self) -> str:
        """Where a branch of the member's own goes."""
        return self.hand_in or self.url


def load_settings(path: Path | None = None) -> TurnSettings:
    """The settings in a file, by default the user's. Raises UsageError, which says what to write there."""
    path = path or config_folder() / SETTINGS_FILE
    needed = f'two lines are enough: format = "{FORMAT}" and url = "ssh://.."'
    with given_file(path, hint=needed, code="malformed"):
        fields = Fields(parse_toml(read_whole(path, MAX_SETTINGS), max_size=MAX_SETTINGS), "")
        fields.exactly("format", FORMAT)
        found = TurnSettings(
            _address(fields, "url"),
            fields.optional("branch", fields.text, _BRANCH) or "main",
            fields.optional("folder", fields.text) or "attestations",
            fields.boolean("push") if fields.has("push") else True,
            _address(fields, "hand-in") if fields.has("hand-in") else "",
        )
        fields.done()
        place = PurePosixPath(found.folder)
        if place.is_absolute() or ".." in place.parts or not place.parts:
            raise Rejected("folder: not a path inside the repository")
    return found


def _address(fields: Fields, name: str) -> str:
    address = fields.text(name)
    if not _URL.fullmatch(address):
        raise Rejected(
            f"{name}: {shown(address, 120)} is not https://.., ssh://.., file:///.., user@host:path or an"
            " absolute path, without spaces"
        )
    return address
