"""The members of a ceremony around one bare repository, each with a state and a configuration of its own.

table = Table.make(folder, seed=1)                # version 1 is signed and committed
table.everybody_builds("0.1.0")                   # prepared results; nothing is built
table.turns(SEVEN, claim=("ann", "0.1.0"))        # everybody takes a turn, in an order that the seed gives
table.decisions("0.1.0")                          # what each member decides, with what it remembers

A push is where turns meet: before one goes out, the seed may let the next members take theirs whole, so this
one is lost. ``real`` pushes with git; otherwise the members share one object store, and a push is a
comparison of the branch with the commit's parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from dulwich.index import commit_tree
from dulwich.objects import Blob, Commit
from dulwich.repo import Repo

from coattest.errors import CoattestError
from coattest.files import Held
from coattest_build.ownwork import BUILT, COMPARED, OwnWork, sha256_hex
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.members.chain import Seen, follow
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import ATTRIBUTES_FILE, ATTRIBUTES_TEXT, put_file
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.signatures.keys import Signer
from coattest_verify.turn.loop import TurnEnd, take_turn
from coattest_verify.turn.objects import write_commit
from coattest_verify.turn.repository import OwnRepository
from coattest_verify.turn.settings import TurnSettings
from coattest_verify.turn.steps import MemberTurn, Questions
from support.verify.desk import Desk
from support.verify.history.commits import AUTHOR, FILE
from support.verify.members import NOW, Members, claim_json, hex_digest

SEVEN = ("ann", "ben", "cat", "dan", "eve", "fay", "gus")
MAIN = b"refs/heads/main"


class SharedStore(OwnRepository):
    """The members' repositories and the common one in one: a push is a comparison, as git's lock makes it."""

    def __init__(self, folder: Path, settings: TurnSettings) -> None:
        self.settings, self.path = settings, folder

    def fetch(self) -> str:
        """The branch's tip."""
        return (self.path / MAIN.decode()).read_text().strip()

    def push(self, commit: str) -> str | None:
        """Fast-forward only: the tip must be the commit's parent."""
        with self._opened() as repository:
            if not repository.descends(commit, self.fetch()):
                return "! [rejected] (fetch first)"
        (self.path / MAIN.decode()).write_text(f"{commit}\n")
        return None


@dataclass
class Seat:
    """One member: its key, its own folders, its results."""

    name: str
    folder: Path
    signer: Signer
    repository: OwnRepository
    results: list[Path] = field(default_factory=list)

    @property
    def roots(self) -> Roots:
        """What it remembers."""
        return Roots(self.folder / "config")

    @contextlib.contextmanager
    def own_state(self) -> Iterator[None]:
        """Its state and configuration, for what runs inside."""
        names = {"COATTEST_STATE": str(self.folder / "state"), "COATTEST_CONFIG": str(self.folder / "config")}
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


class Table:
    """See above. ``clock`` moves by a second at each look, so that later statements are later."""

    def __init__(
        self, folder: Path, quorum: Members, seats: Mapping[str, Seat], seed: int, common: SharedStore
    ) -> None:
        self.folder, self.quorum, self.seats = folder, quorum, dict(seats)
        self.common = common
        self.dice = random.Random(seed)
        self.clock = NOW
        self.queue: list[str] = []
        self.claims: dict[str, Path] = {}
        self.lost = 0

    @classmethod
    def make(
        cls,
        folder: Path,
        seed: int,
        *,
        names: Sequence[str] = SEVEN,
        real: bool = False,
        unsigned: Sequence[str] = (),
        **rules: Any,
    ) -> Table:
        """Keys of three kinds, version 1 signed by all but ``unsigned``, and the first commit."""
        quorum = Members.make(folder / "first", names, **{"threshold": 4, **rules})
        for name in unsigned:
            (quorum.attestations / f"quorum.1.{name}.dsse.json").unlink()
        (quorum.attestations / ATTRIBUTES_FILE).write_bytes(ATTRIBUTES_TEXT)
        bare = folder / "common.git"
        first_commit(bare, quorum.attestations)
        settings = TurnSettings(f"file://{bare}")
        seats = {}
        for name in names:
            own = folder / name
            own.mkdir()
            repository = (
                OwnRepository(quorum.root, settings, own / "state" / "turn")
                if real
                else SharedStore(bare, settings)
            )
            seats[name] = Seat(name, own, quorum.signers[name], repository)
        table = cls(folder, quorum, seats, seed, SharedStore(bare, settings))
        for seat in () if unsigned else seats.values():
            table.decide(seat, None)
        return table

    def now(self) -> datetime:
        """A moment after the last one."""
        self.clock += timedelta(seconds=1)
        return self.clock

    def everybody_builds(self, release: str, names: Sequence[str] | None = None) -> None:
        """Each member has the result of its own build, compared with the claim that will be published."""
        for name in names or tuple(self.seats):
            self.build(self.seats[name], release)

    def build(self, seat: Seat, release: str, seed: bytes = b"good") -> None:
        """A result on one member's machine: small images, and the record that this machine made them."""
        out = seat.folder / f"out-{release}"
        report = Desk(seat.folder).images(out.name, seed, own=False)
        report["release"] = release
        report["source"]["tree_sha256"] = hex_digest(f"tree {release}", 256)
        content = json.dumps(report).encode()
        (out / "rebuild.json").write_bytes(content)
        claim = self.folder / f"claim-{release}.json"
        if not claim.exists():
            claim.write_text(json.dumps(claim_json(report)))
        self.claims[release] = claim
        own = OwnWork(seat.folder / "state" / "own-work")
        own.note(BUILT, sha256_hex(content))
        own.note(COMPARED, sha256_hex(content), Claimed.decode(claim.read_bytes()).sha256)
        seat.results = [*dict.fromkeys([*seat.results, out])]

    def turns(self, names: Sequence[str], claim: tuple[str, str] | None = None) -> dict[str, MemberTurn]:
        """Each of these members takes one turn, in an order that the seed gives; what each did.

        ``claim`` is who publishes the claim of which release in its turn.
        """
        self.queue = self.dice.sample(list(names), len(names))
        done: dict[str, MemberTurn] = {}
        while self.queue:
            self._turn(self.queue.pop(), claim, done)
        return done

    def _turn(self, name: str, claim: tuple[str, str] | None, done: dict[str, MemberTurn]) -> TurnEnd:
        seat = self.seats[name]
        member = MemberTurn(
            name=name,
            signer=lambda _: seat.signer,
            root=self.quorum.root,
            questions=Questions(),
            rebuilds=tuple(seat.results),
            claim=self.claims[claim[1]] if claim and claim[0] == name else None,
            memory=seat.roots,
        )
        done[name] = member
        with seat.own_state():
            member.journal = type(member.journal)()
            return take_turn(Crowded(self, seat, claim, done), member, {}, self.now)

    def by_hand(self, name: str, change: Callable[[Path], None]) -> None:
        """What a member does with other commands in a clone of its own, committed and pushed."""
        repository = self.common
        with repository.files_at(self.tip) as commit, tempfile.TemporaryDirectory() as clone:
            folder = Path(clone) / "attestations"
            folder.mkdir()
            before = {name: commit.read(name) for name in commit.entries}
            for place, content in before.items():
                put_file(folder, place, content)
            change(folder)
            paths = [path for path in folder.rglob("*") if path.is_file()]
            after = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            changes: dict[str, bytes | None] = {each: None for each in before if each not in after}
            changes |= {each: content for each, content in after.items() if before.get(each) != content}
            made = write_commit(
                repository.path, commit, "attestations", changes, author=name, message="x", now=self.now()
            )
        assert repository.push(made) is None

    def decide(self, seat: Seat, release: str | None, at: str | None = None) -> Outcome | None:
        """What a member decides on the branch's tip, or a commit, with what it remembers from now on."""
        with self.common.files_at(at or self.tip) as commit:
            held = {name: commit.read(name) for name in commit.entries}
        evidence = Held(held)
        if release is None:
            first = follow(evidence, self.quorum.root, seen=None, now=self.clock).current
            seat.roots.remember(self.quorum.root, Seen(first.version, first.sha256))
            return None
        outcome = decide_from(
            evidence,
            root=self.quorum.root,
            seen=seat.roots.seen(self.quorum.root),
            profile="aws",
            now=self.clock,
            release=release,
        )
        if outcome.remembered is not None and at is None:
            seat.roots.remember(self.quorum.root, outcome.remembered)
        return outcome

    def decisions(self, release: str) -> dict[str, Outcome]:
        """What each member decides now."""
        found = {name: self.decide(seat, release) for name, seat in self.seats.items()}
        return {name: outcome for name, outcome in found.items() if outcome is not None}

    @property
    def tip(self) -> str:
        """The branch's tip."""
        return self.common.fetch()

    def commits(self) -> list[str]:
        """Every commit from the first to the tip; each has one parent."""
        repository = Repo(str(self.folder / "common.git"))
        found, at = [], self.tip.encode()
        while True:
            found.append(at.decode())
            parents = repository[at].parents
            if not parents:
                return found[::-1]
            (at,) = parents


class Crowded(OwnRepository):
    """A member's repository, before whose pushes the others may get theirs in."""

    def __init__(
        self, table: Table, seat: Seat, claim: tuple[str, str] | None, done: dict[str, MemberTurn]
    ) -> None:
        self._table, self._seat, self._claim, self._done = table, seat, claim, done
        self.settings, self.path = seat.repository.settings, seat.repository.path
        self._git = getattr(seat.repository, "_git", "")

    def fetch(self) -> str:
        """As the member's own does."""
        return self._seat.repository.fetch()

    def push(self, commit: str) -> str | None:
        """Others first, as the seed has it; then this one."""
        table = self._table
        while table.queue and table.dice.random() < 0.5:
            other = table.queue.pop()
            # What is inside has a state of its own, and comes back to this one's.
            table._turn(other, self._claim, self._done)
        refused = self._seat.repository.push(commit)
        table.lost += refused is not None
        return refused


def first_commit(bare: Path, attestations: Path) -> str:
    """A bare repository with one commit of the attestations on its branch ``main``."""
    bare.mkdir(parents=True)
    repository = Repo.init_bare(str(bare), default_branch=b"main")
    store, listed = repository.object_store, []
    files = {
        f"attestations/{path.relative_to(attestations).as_posix()}": path.read_bytes()
        for path in sorted(attestations.rglob("*"))
        if path.is_file()
    }
    for path, content in {"README.md": b"hello", **files}.items():
        blob = Blob.from_string(content)
        store.add_object(blob)
        listed.append((path.encode(), blob.id, FILE))
    made = Commit()
    made.tree, made.parents = commit_tree(store, listed), []
    made.author = made.committer = AUTHOR
    made.author_time = made.commit_time = int(datetime(2026, 11, 23, tzinfo=timezone.utc).timestamp())
    made.author_timezone = made.commit_timezone = 0
    made.encoding, made.message = b"UTF-8", b"the members"
    store.add_object(made)
    repository.refs[MAIN] = made.id
    return str(made.id.decode())


def refusals(done: Mapping[str, MemberTurn]) -> dict[str, CoattestError]:
    """What was not done in these turns, by member and matter."""
    return {f"{name}: {what}": error for name, each in done.items() for what, error in each.waits.items()}
