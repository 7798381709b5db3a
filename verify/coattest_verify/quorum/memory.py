"""The roots that this verifier pinned, and the highest version of the members file accepted under each.

Kept in ``roots.json`` in ``$COATTEST_CONFIG``, ``$XDG_CONFIG_HOME/coattest`` or ``~/.config/coattest``.
Beside it the user may write ``root-names.toml``, with names for roots.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.files import config_folder, read_bounded, read_whole, write_atomic, write_plain
from coattest.strictjson import Fields, canonical, parse
from coattest.text import parse_toml
from coattest_verify.quorum.log.entries import SeenLog
from coattest_verify.quorum.members.chain import PinnedRoot, Seen, SeenObjection
from coattest_verify.quorum.members.file import NAME
from coattest_verify.quorum.statements.claim import ARCHITECTURE, RELEASE, SHA256
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import REVOKE

FORMAT = "coattest-roots/v1"
NAMES_FILE = "root-names.toml"
"""In the user's configuration: what this user calls a root."""

NAMES_FORMAT = "coattest-root-names/v1"
MAX_NAMES_FILE = 256 * 1024
_NAMED = re.compile(r"sha256:[0-9a-f]{64}(?:@[1-9][0-9]{0,5})?")
FLOOR = re.compile(r"[1-9][0-9]{0,5}")
MAX_ROOTS = 1024
MAX_ROOTS_FILE = 64 * 1024 * 1024
"""Bytes of ``roots.json``; an objection has about 500."""

MAX_OBJECTIONS = 65536
"""Dissents and revocations that are remembered for one root."""

MAX_OF_ONE = 256
"""Of them, those by one key of a member: a thief's leave room for those by the key that follows."""


def parse_quorum_root(text: str) -> bytes:
    """The 32 bytes of ``sha256:HEX``. Raises UsageError."""
    return _sha256(text, f"root {text[:80]!r}", code="bad-root")


def parse_digest(option: str) -> Callable[[str], bytes]:
    """What reads an option's ``sha256:HEX``, of something other than a root. Raises UsageError."""
    return lambda text: _sha256(text, repr(text[:80]), where=option, code="bad-expect")


def _sha256(text: str, what: str, *, code: str, where: str | None = None) -> bytes:
    scheme, _, value = text.partition(":")
    if scheme != "sha256" or not SHA256.fullmatch(value):
        raise UsageError(what, where=where, hint="sha256: and 64 lower-case hex digits", code=code)
    return bytes.fromhex(value)


def parse_pinned_root(text: str, names: Path | None = None) -> PinnedRoot:
    """``sha256:HEX``, or with a floor ``sha256:HEX@VERSION``, or the user's name for one (``names``, a file).

    Of the floor of a name and one beside it the higher counts. Raises UsageError.
    """
    root, at, floor = text.partition("@")
    if at and not FLOOR.fullmatch(floor):
        raise UsageError(
            f"floor {floor[:80]!r} of a root",
            hint="a version of the members file, 1 or more",
            code="bad-root",
        )
    lowest = int(floor or 1)
    if ":" in root:
        return PinnedRoot.make(parse_quorum_root(root), lowest)
    path = names or config_folder() / NAMES_FILE
    known = named_roots(path)
    if root not in known:
        raise UsageError(
            f"root {root[:80]!r}: neither sha256: and 64 lower-case hex digits, nor a name of yours",
            where=str(path),
            hint=f"you named {', '.join(sorted(known)) or 'none'}",
            code="bad-root",
        )
    return PinnedRoot.make(known[root], max(lowest, known[root].floor))


def named_roots(path: Path) -> dict[str, PinnedRoot]:
    """The roots that the user's own file names, none without one. Raises UsageError.

    The names are this user's: nothing that was fetched says which root a name is.
    """
    try:
        fields = Fields(parse_toml(read_whole(path, MAX_NAMES_FILE), max_size=MAX_NAMES_FILE), "")
        fields.exactly("format", NAMES_FORMAT)
        values = Fields(fields.mapping("roots", low=0, high=MAX_ROOTS), "roots")
        fields.done()
        texts = {name: values.text(name, _NAMED) for name in values.values}
        if bad := next((name for name in texts if not NAME.fullmatch(name)), None):
            raise Rejected(f"roots: {bad[:80]!r} is not a name: lower-case letters, digits and hyphens")
    except FileNotFoundError:
        return {}
    except Rejected as error:
        raise UsageError(error.what, where=str(path), code="malformed") from None
    return {name: parse_pinned_root(text) for name, text in texts.items()}


class Roots:
    """The remembered roots in one file; safe against two processes at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or config_folder()) / "roots.json"

    def seen(self, root: bytes) -> Seen | None:
        """The highest version accepted under a root, or None."""
        return self._load().get(root)

    def pinned(self, given: bytes | None) -> bytes:
        """The root that was given, or else the one remembered. Raises UsageError without exactly one."""
        if given is not None:
            return given
        roots = sorted(self._load())
        if len(roots) == 1:
            return roots[0]
        found = "no root is pinned" if not roots else f"{len(roots)} roots are pinned"
        raise UsageError(
            found,
            where=str(self.path),
            hint="give --root sha256:HEX, the digest of quorum.toml version 1, which you got from the"
            f" members themselves and not with these files, or your name for it in {NAMES_FILE}",
            code="no-root",
        )

    def known(self, given: bytes | None) -> tuple[bytes, Seen | None]:
        """The root as ``pinned``, and what was accepted under it."""
        root = self.pinned(given)
        return root, self.seen(root)

    def remember(self, root: bytes, accepted: Seen) -> None:
        """Record what was accepted under a root; never lowers what is there."""
        earlier = self.seen(root)
        if earlier is not None and _higher(earlier, accepted) == earlier:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            roots = self._load()
            roots[root] = _higher(roots.get(root), accepted)
            content = _encode(roots)
            if len(content) > MAX_ROOTS_FILE:  # it could never be read again
                raise EnvironmentFailure(
                    "there are more objections than can be remembered",
                    where=str(self.path),
                    hint="remove roots that you do not follow",
                )
            # One's own folder, which may well be a link.
            write_atomic(self.path.parent.resolve() / self.path.name, content, 0o600)

    def _load(self) -> dict[bytes, Seen]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return _decode(content)
        except Rejected as error:
            # Not read as empty: damaging this file must not switch the protection against rollback off.
            raise EnvironmentFailure(
                error.what, where=str(self.path), hint="restore it, or remove it and pin again with --root"
            ) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with write_plain(self.path.with_name(".roots.lock"), append=True) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Unwritten(Roots):
    """A memory that is read from a file, or empty, and never written: it works without a writable home."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def remember(self, root: bytes, accepted: Seen) -> None:
        """Nothing."""

    def _load(self) -> dict[bytes, Seen]:
        if self._file is None:
            return {}
        try:
            return _decode(read_bounded(self._file, MAX_ROOTS_FILE))
        except Rejected as error:
            raise UsageError(error.what, where=str(self._file), hint="a copy of roots.json") from None


def _higher(earlier: Seen | None, accepted: Seen) -> Seen:
    if earlier is None:
        return replace(accepted, objections=_merged(frozenset(), accepted.objections))
    if accepted.agreed and not earlier.agreed:
        version = accepted  # the log has it, whatever was seen before
    else:
        version = max(accepted, earlier, key=lambda seen: (seen.version, seen.agreed))
    logs = [seen.log for seen in (accepted, earlier) if seen.log is not None]
    log = max(logs, key=lambda log: (log.version, log.size)) if logs else None
    merged = _merged(earlier.objections, accepted.objections)
    return Seen(version.version, version.sha256, log, version.agreed, merged)


def _merged(earlier: frozenset[SeenObjection], more: frozenset[SeenObjection]) -> frozenset[SeenObjection]:
    """What is remembered of both: the earlier ones first, and no key's many in the place of another's."""
    merged = list(earlier)
    count = Counter((each.member, each.key) for each in merged)
    for each in sorted(more - earlier, key=astuple):
        if count[each.member, each.key] < MAX_OF_ONE and len(merged) < MAX_OBJECTIONS:
            count[each.member, each.key] += 1
            merged.append(each)
    return frozenset(merged)


def _encode(roots: dict[bytes, Seen]) -> bytes:
    values = {
        f"sha256:{root.hex()}": _said(
            {
                "version": seen.version,
                "sha256": seen.sha256,
                "log": _log(seen.log) if seen.log else None,
                "agreed": seen.agreed,
                "objections": [_said(asdict(each)) for each in sorted(seen.objections, key=astuple)],
            }
        )
        for root, seen in roots.items()
    }
    return canonical({"format": FORMAT, "roots": values}) + b"\n"


def _log(log: SeenLog) -> dict[str, str | int]:
    values = asdict(log)
    return values if log.restart else {name: values[name] for name in ("size", "root")}


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those that say nothing."""
    return {name: value for name, value in values.items() if value}


def _decode(content: bytes) -> dict[bytes, Seen]:
    fields = Fields(parse(content, max_size=MAX_ROOTS_FILE), "")
    fields.exactly("format", FORMAT)
    roots = {}
    for name, value in fields.mapping("roots", low=0, high=MAX_ROOTS).items():
        entry = Fields(value, name[:80])
        try:
            root = parse_quorum_root(name)
        except UsageError as error:
            raise Rejected(error.what) from None
        log = None
        if entry.has("log"):
            part = entry.fields("log")
            log = SeenLog(part.integer("size", 1), part.text("root", SHA256))
            if part.has("restart"):
                log = replace(log, restart=part.text("restart", SHA256), version=part.integer("version", 2))
        roots[root] = Seen(
            entry.integer("version", 1),
            entry.text("sha256", SHA256),
            log,
            entry.has("agreed") and entry.boolean("agreed"),
            _objections(entry) if entry.has("objections") else frozenset(),
        )
        entry.done()
    fields.done()
    return roots


def _objections(entry: Fields) -> frozenset[SeenObjection]:
    found = set()
    for part in entry.each("objections", high=MAX_OBJECTIONS):
        digests = [part.text(name, SHA256) for name in ("key", "sha256", "tree_sha256", "lock_sha256")]
        kind, member = part.choice("kind", (DISSENT, REVOKE)), part.text("member", NAME)
        # Without a release it is about a source: a revocation, or a dissent from before releases were named.
        named = (
            (part.text("release", RELEASE), part.text("architecture", ARCHITECTURE))
            if part.has("release")
            else ()
        )
        found.add(SeenObjection(kind, member, *digests, *named))
    return frozenset(found)
