"""The decision together with the quorum it came from: what a command may rely on, recomputed at every use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coattest.errors import UsageError
from coattest.files import Evidence, Folder
from coattest.findings import Finding
from coattest.parser import refuse_ignored
from coattest.shell import err
from coattest_verify.quorum.bundle import load_bundle
from coattest_verify.quorum.decision import Decision, Outcome, decide, decide_from
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.memory import Roots, parse_pinned_root
from coattest_verify.quorum.tally import Answer


@dataclass(frozen=True, slots=True)
class Authority:
    """A decision, the members file that it was made under, and who agreed, each with its statement."""

    decision: Decision
    members: MembersFile
    answers: tuple[Answer, ...] = ()


def authority_from(
    options: Mapping[str, Any],
    now: datetime,
    own: str | None = None,
    *,
    release: str | None = None,
    warn: bool = True,
) -> Authority:
    """The authority at ``now`` from the options of ``decision_options``; raises FoundFalse with every reason.

    With ``own`` that member's own agreeing statement must be among those that count. ``release`` stands for
    the option of that name, where a command takes several. A decision that ends soon is a line on stderr,
    unless ``warn`` says that ``now`` is not the present.
    """
    outcome = outcome_from(options, now, own, release=release)
    if warn:
        tell_end(outcome.warnings)
    return Authority(*outcome.decided(), outcome.answers)


def tell_end(warnings: Iterable[Finding]) -> None:
    """Say on stderr which of these warnings are about an end that comes soon."""
    for warning in warnings:
        if warning.code == "ends-soon":
            err().print(f"warning: {warning}", style="yellow")


def outcome_from(
    options: Mapping[str, Any], now: datetime, own: str | None = None, *, release: str | None = None
) -> Outcome:
    """What the options of ``decision_options`` lead to at ``now``; see ``authority_from``.

    A ``bundle`` among the options is a proof bundle to decide from instead of the folder; it needs a root.
    Raises UsageError, also when several releases are there and none is named.
    """
    given = options["root"]
    root = parse_pinned_root(given) if isinstance(given, str) else given
    asked: dict[str, Any] = {
        "profile": options["profile"],
        "release": release or options.get("release"),
        "fresh": options.get("fresh"),
        "now": now,
        "own": own,
    }
    if options.get("bundle") is None:
        return decide(options["attestations"], root=root, **asked)
    refuse_ignored(("attestations",), "with --bundle")
    root = bundle_root(root)
    return decide_from(load_bundle(options["bundle"]).files, root=root, seen=Roots().seen(root), **asked)


@contextlib.contextmanager
def evidence_from(options: Mapping[str, Any]) -> Iterator[Evidence]:
    """The files that the options of ``decision_options`` name: a folder's, or a proof bundle's."""
    if options.get("bundle") is not None:
        yield load_bundle(options["bundle"]).files
        return
    with Folder(options["attestations"]) as folder:
        yield folder


def bundle_root(root: bytes | None) -> bytes:
    """The root for a proof bundle, which must be given. Raises UsageError."""
    if root is None:
        raise UsageError(
            "--bundle needs --root sha256:HEX",
            hint="a bundle holds everything but the root",
            code="no-root",
        )
    return root
