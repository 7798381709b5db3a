"""A quorum's folder in a repository, and ``verify lint-change`` on changes to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from coattest_verify.cli.lint_change import lint_change_command
from coattest_verify.quorum.links import sign_link
from support.verify.history.commits import Files, History, read_folder
from support.verify.logs import sign_log
from support.verify.members import NOW, Members

NEXT = "0.2.0"


@dataclass
class SharedHistory:
    """A quorum's folder, and the repository that it is committed to."""

    quorum: Members
    history: History
    base: str

    @property
    def files(self) -> Files:
        """The folder as it is now, and a file beside it."""
        return {"README.md": b"hello", **read_folder(self.quorum.attestations)}

    def lint(self, changes: Mapping[str, Any] | None = None, *words: str) -> tuple[int, dict[str, Any]]:
        """Commit the folder with ``changes`` (None removes a file), and judge it: exit code and JSON."""
        files = self.files
        for name, content in (changes or {}).items():
            if content is None:
                del files[name]
            else:
                files[name] = content
        self.history.commit(files, self.base)
        return self.judge(self.base, *words)

    def judge(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run the command."""
        line = ["--repository", str(self.history.folder), "--root", f"sha256:{self.quorum.root.hex()}"]
        done = CliRunner().invoke(lint_change_command, [*line, "--json", *words], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.return_value, json.loads(done.stdout)

    def rebuilt(self, member: str, report: dict[str, Any], **options: Any) -> None:
        """A member's statement and its link, as sign-pcrs writes them."""
        self.quorum.sign(member, report, **options)
        statement = self.quorum.statement(member, report, **options)
        signer = self.quorum.signers[member]
        self.quorum.released.joinpath(f"rebuild.{signer.public.keyid[:8]}.link").write_bytes(
            sign_link(statement, signer)
        )

    def log(self, member: str, **options: Any) -> None:
        """Append what is there and cosign it."""
        quorum = self.quorum
        sign_log(
            quorum.attestations, quorum.root, member, quorum.signers[member], seen=None, now=NOW, **options
        )

    def again(self) -> None:
        """Take the folder as it is for what is merged."""
        self.base = self.history.commit(self.files, self.base)


def codes(found: Mapping[str, Any]) -> list[str]:
    """The codes of all findings."""
    return [finding["code"] for finding in found["findings"]]
