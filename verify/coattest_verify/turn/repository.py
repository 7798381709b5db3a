"""The member's own bare repository: made by this program, with the main branch of one address in it.

git fetches and pushes and does nothing else here. It is started with an environment from nothing and without
the user's or the system's configuration; there is no work tree and no index, no hook, filter or replace ref
counts, and what was fetched is read by coattest's own reader of objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from coattest.errors import EnvironmentFailure, Rejected
from coattest.files import Folder, state_folder
from coattest.programs.environment import find_program, program_environment
from coattest.programs.start import EndedProgram, ProgramLimits, run_program
from coattest.text import printable
from coattest_build.repository import Repository, open_bare
from coattest_verify.quorum.change.tree import CommitFiles
from coattest_verify.turn.settings import TurnSettings

TIP = "refs/coattest/tip"
LIMITS = ProgramLimits(seconds=600.0, output=1024 * 1024, memory=1 << 30)
"""Of one fetch or push; the options below keep git's own use of memory under that."""

MAX_OWN_PACKS = 50
"""A fetch of more than 100 objects leaves one; git repacks at 50, and here nothing runs in the background."""

INHERITED = ("HOME", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "https_proxy", "no_proxy")
"""Variables of the user's that git, ssh and curl need to reach the address; none changes what they run."""

ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
}

OPTIONS = (
    *("-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never", "-c", "protocol.file.allow=always"),
    *("-c", "protocol.https.allow=always", "-c", "protocol.ssh.allow=always", "-c", "gc.auto=0"),
    *("-c", "fetch.fsckObjects=true", "-c", "maintenance.auto=false", "-c", "fetch.recurseSubmodules=no"),
    *("-c", "core.packedGitWindowSize=32m", "-c", "core.packedGitLimit=256m", "-c", "pack.threads=1"),
    *("-c", "core.bigFileThreshold=16m", "-c", "core.deltaBaseCacheLimit=64m"),
    *("-c", "push.gpgSign=false", "-c", "push.recurseSubmodules=no", "-c", "http.followRedirects=false"),
)
"""git-config(1): no hook, no transport that an address could choose, nothing in the background."""

FOREIGN = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.alternateRefsCommand=false", "-c", "gc.auto=0"),
    *("-c", "receive.autogc=false", "-c", "receive.denyCurrentBranch=refuse", "-c", "core.fsmonitor=false"),
)
FOREIGN_ENVIRONMENT = "GIT_NO_LAZY_FETCH=1 GIT_ALLOW_PROTOCOL=none"
"""For a repository on this machine, in which git itself serves: with its settings and hooks, which are those
of whoever hosts it, and without what was said above, which git keeps from it (git-receive-pack(1))."""


class OwnRepository:
    """A bare repository in this user's state, for one quorum and one address."""

    def __init__(self, root: bytes, settings: TurnSettings, state: Path | None = None) -> None:
        """Make it unless this program has made it before. Raises EnvironmentFailure without git."""
        self.settings = settings
        self._git = find_program("git")
        name = hashlib.sha256(root + settings.url.encode()).hexdigest()[:32]
        self.path = (state or state_folder("turn")) / f"{name}.git"
        packs = len(list(self.path.glob("objects/pack/*.pack")))
        if not (self.path / "HEAD").is_file() or packs > MAX_OWN_PACKS:
            self._make()

    def _make(self) -> None:
        """Begin anew: everything in it can be fetched again."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(self.path, ignore_errors=True)
        done = self._run("init", "--quiet", "--bare", "--template=", str(self.path), inside=False)
        if done.code:
            raise EnvironmentFailure(_last_line(done), where=str(self.path), code="git")

    def fetch(self) -> str:
        """Fetch the branch; the id of its tip. Raises EnvironmentFailure (``git``)."""
        source = f"+refs/heads/{self.settings.branch}:{TIP}"
        done = self._run(
            *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"),
            *(*self._served("upload-pack", self.settings.url), "--end-of-options", self.settings.url, source),
        )
        if done.code:
            raise EnvironmentFailure(
                f"{self.settings.branch} cannot be fetched: {_last_line(done)}",
                where=self.settings.url,
                hint="check url and branch in turn.toml, and your access",
                code="git",
            )
        with self._opened() as repository, self._readable():
            found = repository.commit(TIP)
        if found is None:
            raise EnvironmentFailure("git fetched no commit", where=self.settings.url, code="git")
        return found

    def push(self, commit: str) -> str | None:
        """Push a commit to the branch, fast-forward only; None, or what git said where that was refused."""
        return self._push(self.settings.url, f"{commit}:refs/heads/{self.settings.branch}")

    def hand_in(self, commit: str, member: str) -> str:
        """Put a commit into the member's own branch, in the place of what it had there; the branch's name.

        Raises EnvironmentFailure (``git``).
        """
        branch = f"coattest/{member}"
        refused = self._push(self.settings.own_url, f"+{commit}:refs/heads/{branch}")
        if refused is not None:
            raise EnvironmentFailure(
                f"{branch} cannot be pushed either: {refused}",
                where=self.settings.own_url,
                hint="hand-in in turn.toml names a repository in which you may push",
                code="git",
            )
        return branch

    @contextlib.contextmanager
    def files_at(self, commit: str) -> Iterator[CommitFiles]:
        """The folder of attestations in a commit. Raises EnvironmentFailure (``bad-repository``)."""
        with self._opened() as repository:
            with self._readable():
                files = CommitFiles(repository, commit, self.settings.folder)
            yield files

    def parents(self, commit: str) -> list[str]:
        """The ids of a commit's parents. Raises EnvironmentFailure (``bad-repository``)."""
        with self._opened() as repository, self._readable():
            return repository.parents(commit)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Repository]:
        with Folder(self.path) as folder:
            with self._readable():
                found = open_bare(folder)
            if found is None:
                raise EnvironmentFailure("not a repository", where=str(self.path), code="bad-repository")
            with found:
                yield found

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Rejected as error:
            raise EnvironmentFailure(error.what, where=str(self.path), code="bad-repository") from None

    def _push(self, url: str, what: str) -> str | None:
        done = self._run(
            *("push", "--quiet", "--porcelain", "--no-verify", "--no-signed", "--no-follow-tags"),
            *("--recurse-submodules=no", *self._served("receive-pack", url), "--end-of-options", url, what),
        )
        return _last_line(done) if done.code else None

    def _served(self, service: str, url: str) -> tuple[str, ...]:
        """The option that says how git serves a repository of this machine, where the address is of one."""
        if not url.startswith(("/", "file:")):
            return ()
        return (f"--{service}={FOREIGN_ENVIRONMENT} {shlex.join([self._git, *FOREIGN, service])}",)

    def _run(self, *words: str, inside: bool = True) -> EndedProgram:
        where = ("--git-dir", str(self.path)) if inside else ()
        return run_program(
            [self._git, *where, *OPTIONS, *words],
            environment=program_environment(INHERITED, ENVIRONMENT),
            limits=LIMITS,
        )


def _last_line(done: EndedProgram) -> str:
    """What git said last, on one line: a server's words are anybody's."""
    refused = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("!")]
    said = [line for line in done.said.splitlines() if line.strip()]
    return printable((refused or said or [f"exit code {done.code}"])[-1])[:300]
