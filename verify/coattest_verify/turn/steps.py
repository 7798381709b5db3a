"""What is asked of one member in the attestations as they were fetched, and doing it.

Nothing here knows of git: a folder that was made from a commit comes in, and the member's own files, and what
follows from everybody's, are written into it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest.files import Evidence, Folder, ReadOnce, given_file, read_whole
from coattest.findings import Finding
from coattest_build.ownwork import BUILDER_FILE, COMPARED, REPORT_FILE, OwnWork
from coattest_verify.quorum.commitments import commitments_missing
from coattest_verify.quorum.cosigning import (
    CosignPlan,
    append_log,
    cosign_log,
    ready_to_cosign,
    seen_by_cosigner,
    sound_log,
)
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE
from coattest_verify.quorum.log.publication import publication
from coattest_verify.quorum.members.chain import MembersChain, follow
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MembersFile, own_key
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.objections import votes_that_stand
from coattest_verify.quorum.releases import ReleaseFiles, put_file, release_place
from coattest_verify.quorum.signing import PROPOSAL_FILE, Pending, countersign, pending
from coattest_verify.quorum.statements.claim import CLAIM_FILE, MAX_CLAIM, Claimed
from coattest_verify.quorum.statements.salt import opening
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import RebuildReport, Statement
from coattest_verify.quorum.statements.votes import COMMIT, Vote
from coattest_verify.rebuild.answer import Ask, OwnReport, answer, read_report, remeasure, sign_answer
from coattest_verify.rebuild.committing import commit_to
from coattest_verify.rebuild.hosts import host_name
from coattest_verify.rebuild.publishing import sign_publication
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.signatures.keys import Signer

COSIGNED_AGAIN = timedelta(days=1)
"""How old a member's cosignature on the whole log gets before its turn makes a new one (``--fresh``)."""


class Questions:
    """What a member is asked before something is signed; each raises to say no. The command has the words."""

    def version(self, waiting: Pending) -> None:
        """A version of the members file."""

    def commitment(self, own: OwnReport) -> None:
        """A commitment to a build of this machine."""

    def statement(self, statement: Statement, claim: Claimed, *, looked_at: bool) -> None:
        """A statement on a claim; ``looked_at``: ``verify rebuild`` compared with this very claim."""

    def claim(self, claim: Claimed, vote: Vote) -> None:
        """A claim that the member publishes."""

    def cosignature(self, plan: CosignPlan) -> None:
        """A cosignature: checked by the program, shown to the member."""


@dataclass
class MemberTurn:
    """Who does the turn, with which key and results, and what was done so far.

    ``waits`` are the things that were not done, each with its reason, by what they are about. ``logged`` is
    what the last round did to the log: a lost push takes it back. ``refused`` is why the log as fetched gets
    no cosignature, where members commit before anything is shown.
    """

    name: str
    signer: Callable[[Evidence], Signer]
    root: bytes
    questions: Questions
    rebuilds: Sequence[Path] = ()
    claim: Path | None = None
    tag: str | None = None
    memory: Roots = field(default_factory=Roots)
    journal: SignatureJournal = field(default_factory=SignatureJournal)
    done: list[str] = field(default_factory=list)
    waits: dict[str, CoattestError] = field(default_factory=dict)
    logged: list[str] = field(default_factory=list)
    refused: CoattestError | None = None
    _key: Signer | None = None

    def own_part(self, attestations: Path, now: datetime) -> bool:
        """Sign what is asked: a version, a commitment or a statement for each of the member's results.

        What cannot be done, or is not wanted, is kept in ``waits`` and does not stop the rest. False while
        version 1 lacks signatures, or the log waits for a version that begins it again, so that nothing else
        can be done.
        """
        self.logged.clear()
        with Folder(attestations) as opened:
            self._try("members file", partial(self._countersign, attestations, ReadOnce(opened)))
        with Folder(attestations) as opened:
            evidence = ReadOnce(opened)
            try:
                chain = self._chain(evidence)
            except Rejected as error:
                if error.code != "members-unsigned":
                    raise
                self.waits.setdefault("members file", error)
                return False
            signer = self._own_key(evidence)
            members = chain.current
            own_key(self.name, members, signer)
            try:
                sound_log(chain)
            except CoattestError as error:
                waiting = pending(evidence)
                if not waiting.lacks or waiting.members.restart is None:
                    raise
                self.waits["log"] = error  # until the version that begins it again is in force
                self.refused = error if members.commitments else None
                return False
            _install(attestations, evidence, members)
            self.refused = self.log_refused(evidence, now) if members.commitments else None
            there = _Fetched(attestations, evidence, chain, signer, now)
            if self.claim is not None:
                self._try("claim", partial(self._hand_in_claim, there, self.claim))
                there = replace(there, evidence=ReadOnce(opened))
            for out in self.rebuilds:
                self._try(str(out), partial(self._result, there, out))
        return True

    def log(self, attestations: Path, now: datetime, *, append: bool) -> None:
        """Cosign the fetched log, and ``append`` what is in the folder and not in it.

        An entry that no authentic file gives is kept in ``waits``: then nothing is appended after it, and the
        member's own files still go out, which count without an entry.
        """
        try:
            self._cosign(attestations, now)
        except FoundFalse as error:
            self.waits["log"] = error
            return
        if self.refused is not None:  # and was cosigned before: it gets no entries of what stays here
            self.waits["log"] = self.refused
        elif append:
            self._append(attestations)

    def _cosign(self, attestations: Path, now: datetime) -> None:
        """Unless the whole log is cosigned by this member already, and lately, or there is none."""
        seen = self.memory.seen(self.root)
        self.waits.pop("log", None)
        with Folder(attestations) as opened:
            evidence = ReadOnce(opened)
            chain = self._chain(evidence)
            log = sound_log(chain)
            signer = self._own_key(evidence)
        if log is None or now - log.times.get(self.name, now - COSIGNED_AGAIN) < COSIGNED_AGAIN:
            return
        cosign_log(
            attestations,
            self.root,
            self.name,
            signer,
            seen=seen,
            now=now,
            approve=self.questions.cosignature,
            journal=self.journal,
        )
        with Folder(attestations) as opened:
            self.memory.remember(self.root, seen_by_cosigner(opened, chain, log, seen))
        self.logged.append(f"cosigned {log.checkpoint.size} entries of the log")

    def _own_key(self, evidence: Evidence) -> Signer:
        """Opened once: it may ask for a passphrase."""
        if self._key is None:
            self._key = self.signer(evidence)
        return self._key

    def _chain(self, evidence: Evidence) -> MembersChain:
        """What is in force, expired or not. Raises Rejected."""
        seen = self.memory.seen(self.root)
        return follow(evidence, self.root, seen=seen, now=None)

    def _append(self, attestations: Path) -> None:
        try:
            fresh = append_log(attestations, self.root, seen=self.memory.seen(self.root)).fresh
        except UsageError:  # nothing to log yet
            return
        if fresh:
            self.logged.append(f"appended {len(fresh)} entries to the log")

    def _try(self, what: str, step: Callable[[], str | None]) -> None:
        """Do one thing, unless an earlier attempt of this turn was told no."""
        if what in self.waits and self.waits[what].code in {"declined", "not-confirmed"}:
            return
        self.waits.pop(what, None)
        try:
            done = step()
        except CoattestError as error:
            self.waits[what] = error
            return
        if done:
            self.done.append(done)

    def _countersign(self, attestations: Path, evidence: ReadOnce) -> str | None:
        waiting = pending(evidence)
        parties = [members.member(self.name) for members in (waiting.members, waiting.current)]
        if not waiting.lacks or self.name in waiting.signed or not any(parties):
            return None
        # What waits is shown by whoever hosts it: it follows from the pinned root, or nobody is asked.
        first = waiting.members.version == 1
        base = self.root.hex() if first else self._chain(evidence).current.sha256
        if waiting.current.sha256 != base:
            raise Rejected(
                "does not lead back to the pinned root", where=waiting.file, code="members-wrong-root"
            )
        self.questions.version(waiting)
        signer, seen = self._own_key(evidence), self.memory.seen(self.root)
        countersign(attestations, evidence, self.name, signer, journal=self.journal, seen=seen)
        return f"signed version {waiting.members.version} of the members file"

    def _hand_in_claim(self, there: _Fetched, path: Path) -> str | None:
        data = read_whole(path, MAX_CLAIM)
        with given_file(path, code="bad-claim"):
            claim = Claimed.decode(data)
        built = [
            own
            for out in self.rebuilds
            if (own := read_report(out, OwnWork())).report.release == claim.release
        ]
        if not built:
            raise UsageError(
                f"no build of release {claim.release} is here",
                where=str(path),
                hint="who publishes a claim has built it: --rebuild names the result",
                code="not-own-work",
            )
        self._may_show(there, claim)
        done = sign_publication(
            there.attestations,
            there.evidence,
            data,
            built[0],
            member=self.name,
            signer=there.signer,
            root=self.root,
            state=there.chain.state,
            tag=self.tag,
            now=there.now,
            journal=self.journal,
            approve=self.questions.claim,
        )
        return f"published the claim of release {claim.release}" if done else None

    def _may_show(self, there: _Fetched, claim: Claimed) -> None:
        """Raise EnvironmentFailure unless enough members' commitments are in the agreed part of the log.

        Before that, neither a claim nor a result is shown to those who have not committed. Nor is it while
        the log waits: no commitment gets into it meanwhile, and what is shown cannot be taken back.
        """
        missing = commitments_missing(
            ReleaseFiles(there.evidence, claim.release), there.chain, claim, self.root
        )
        if missing is None and self.refused is not None:
            missing = Finding("log-waits", CHECKPOINT_FILE, f"the log waits: {self.refused.what}")
        if missing is not None:
            raise EnvironmentFailure(
                missing.detail,
                where=f"release {claim.release}",
                hint="nothing is shown until then: take another turn when the others have taken theirs",
                code=missing.code,
            )

    def log_refused(self, evidence: Evidence, now: datetime) -> CoattestError | None:
        """Why the log of ``evidence`` gets no cosignature of this member; None if it would, or is absent."""
        try:
            signer, seen = self._own_key(evidence), self.memory.seen(self.root)
            ready_to_cosign(evidence, self.root, self.name, signer, seen=seen, now=now)
        except CoattestError as error:
            return error
        return None

    def _result(self, there: _Fetched, out: Path) -> str | None:
        """Commit to a result of this machine, or state it, whichever it is time for."""
        own = read_report(out, OwnWork())
        files = ReleaseFiles(there.evidence, own.report.release)
        try:
            claim = files.claim()
        except Rejected as error:
            if error.code != "absent":
                raise
            claim = None
        if claim is None:
            if there.chain.current.commitments and not _committed(files, self.name, there.chain, own.report):
                return self._commit(there, own)
            raise EnvironmentFailure(
                f"release {own.report.release} has no claim yet",
                where=release_place(own.report.release, CLAIM_FILE),
                hint="its publisher publishes it; then take another turn",
                code="no-claim",
            )
        votes = votes_that_stand(files, there.chain)[0]
        published = publication(claim, votes, there.chain.state, self.root)
        return self._state(there, own, Ask(claim, there.chain.current, files, published))

    def _commit(self, there: _Fetched, own: OwnReport) -> str:
        commit_to(
            there.attestations,
            own,
            self.name,
            there.signer,
            root=self.root,
            now=there.now,
            approve=lambda: self.questions.commitment(own),
        )
        return f"committed to a result for release {own.report.release}"

    def _state(self, there: _Fetched, own: OwnReport, ask: Ask) -> str | None:
        if _answered(ask, self.name, there.chain.versions):
            return None
        self._may_show(there, ask.claim)
        remeasure(own)
        secret = opening(self.name, self.root, own.report)
        statement = answer(
            ask,
            own.report,
            member=self.name,
            dissent=False,
            now=there.now,
            host=host_name(None, ask.members),
            salt=secret.salt if secret else None,
        )
        looked_at = OwnWork().made(COMPARED, own.sha256, ask.claim.sha256)
        self.questions.statement(statement, ask.claim, looked_at=looked_at)
        sign_answer(there.attestations, ask.files, statement, ask.members, there.signer, journal=self.journal)
        return f"signed {statement.outcome} for release {ask.claim.release}"


@dataclass(frozen=True)
class _Fetched:
    """The attestations as they were fetched, with the members file and the log that are in force."""

    attestations: Path
    evidence: Evidence
    chain: MembersChain
    signer: Signer
    now: datetime


def _install(attestations: Path, evidence: Evidence, members: MembersFile) -> None:
    """Put the version in force into ``quorum.toml``, whoever completed it, and clear its proposal away."""
    if evidence.read(MEMBERS_FILE, MAX_MEMBERS_FILE) != members.raw:
        put_file(attestations, MEMBERS_FILE, members.raw)
    with contextlib.suppress(Rejected):
        if evidence.read(PROPOSAL_FILE, MAX_MEMBERS_FILE) == members.raw:
            (attestations / PROPOSAL_FILE).unlink()


def results_in(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The folders that have a build report."""
    return tuple(
        folder for folder in folders if any((folder / name).exists() for name in (REPORT_FILE, BUILDER_FILE))
    )


def _answered(ask: Ask, member: str, versions: Sequence[MembersFile]) -> bool:
    """Whether the member's statement on this claim is there, in this round, and still counts."""
    claim, members = ask.claim, ask.members
    return any(
        (made.member, made.round, made.release, made.architecture)
        == (member, members.round, claim.release, claim.architecture)
        and item.stood(versions)
        for item in read_statements(ask.files, members)[0]
        for made in (item.statement,)
    )


def _committed(files: ReleaseFiles, member: str, chain: MembersChain, report: RebuildReport) -> bool:
    return any(
        (vote.kind, vote.member, vote.tree_sha256, vote.lock_sha256)
        == (COMMIT, member, report.tree_sha256, report.lock_sha256)
        for vote in votes_that_stand(files, chain)[0]
    )
