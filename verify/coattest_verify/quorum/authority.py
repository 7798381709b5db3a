"""The decision together with the quorum it came from: what a command may rely on, recomputed at every use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coattest.errors import UsageError
from coattest.parser import refuse_ignored
from coattest_verify.quorum.bundle import load_bundle
from coattest_verify.quorum.decision import Decision, decide, decide_from
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.memory import Roots, parse_quorum_root
from coattest_verify.quorum.tally import Answer


@dataclass(frozen=True, slots=True)
class Authority:
    """A decision, the members file that it was made under, and who agreed, each with its statement."""

    decision: Decision
    members: MembersFile
    answers: tuple[Answer, ...] = ()


def authority_from(options: Mapping[str, Any], now: datetime, own: str | None = None) -> Authority:
    """The authority at ``now`` from the options of ``decision_options``; raises FoundFalse with every reason.

    With ``own`` that member's own agreeing statement must be among those that count. A ``bundle`` among the
    options is a proof bundle to decide from instead of the folder; it needs a root.
    """
    given = options["root"]
    root = parse_quorum_root(given) if isinstance(given, str) else given
    bundle, profile = options.get("bundle"), options["profile"]
    if bundle is not None:
        refuse_ignored(("attestations",), "with --bundle")
    if bundle is None:
        outcome = decide(options["attestations"], root=root, profile=profile, now=now, own=own)
    else:
        root = bundle_root(root)
        files = load_bundle(bundle).files
        outcome = decide_from(files, root=root, seen=Roots().seen(root), profile=profile, now=now, own=own)
    return Authority(*outcome.decided(), outcome.answers)


def bundle_root(root: bytes | None) -> bytes:
    """The root for a proof bundle, which must be given. Raises UsageError."""
    if root is None:
        raise UsageError(
            "--bundle needs --root sha256:HEX",
            hint="a bundle holds everything but the root",
            code="no-root",
        )
    return root
