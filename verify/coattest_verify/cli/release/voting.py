"""What the verbs share by which a member signs a vote: it reviewed, objects, or takes an objection back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from coattest.shell import Decorator, confirm_signing, expect_option, json_option, option_group, utc_now
from coattest_verify.cli.options import SigningKey, quorum_options, signing_options
from coattest_verify.cli.words import Rows
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.votes import Vote, make_vote


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """Who signs a vote, why, and in which quorum; ``expect`` is the digest (hex) that the member means."""

    signing: SigningKey
    reason: str
    expect: str | None
    attestations: Path
    root: bytes
    as_json: bool

    def vote(
        self,
        kind: str,
        source: Claimed | Vote,
        *,
        since: str | None = None,
        undoes: str | None = None,
        excused: str | None = None,
    ) -> Vote:
        """The vote as of now, with the reason as its note; see ``make_vote``."""
        return make_vote(
            kind,
            self.signing.member,
            root=self.root,
            claim=source,
            note=self.reason,
            now=utc_now(),
            since=since,
            undoes=undoes,
            excused=excused,
        )

    def confirm(self, says: str, vote: Vote, rows: Rows, *, subject: str, digest: str) -> None:
        """Show what the member says with the vote, and return when it is meant; see ``confirm_signing``."""
        meaning = [("signs", f"{vote.member} {says}"), ("reason", vote.note), *rows]
        confirm_signing(meaning, subject=subject, digest=digest, expected=self.expect)


def vote_options(reason: str) -> Decorator:
    """Passed as ``request``, a VoteRequest; ``reason`` is what ``--reason`` says."""
    options = option_group(
        signing_options,
        click.option("--reason", required=True, help=f"One line: {reason}."),
        expect_option,
        quorum_options,
        json_option,
    )

    def decorate(command: Any) -> Any:
        @wraps(command)
        def packed(
            *,
            signing: SigningKey,
            reason: str,
            expect: str | None,
            attestations: Path,
            root: bytes | None,
            as_json: bool,
            **rest: Any,
        ) -> Any:
            pinned = Roots().pinned(root)
            request = VoteRequest(signing, reason, expect, attestations, pinned, as_json)
            return command(request=request, **rest)

        return options(packed)

    return decorate
