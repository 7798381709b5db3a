"""Options that several commands share: who signs, where the attestations are, which root and profile."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from coattest.errors import CoattestError, UsageError
from coattest.extras import need_signer
from coattest.files import Evidence, Folder, ReadOnce
from coattest.parser import NamedPath
from coattest.shell import Decorator, judged_folder, option_group, signing_key, utc_now
from coattest_verify.quorum.authority import authority_from, tell_end
from coattest_verify.quorum.decision import Decision
from coattest_verify.quorum.lapse import expiring
from coattest_verify.quorum.members.file import MembersFile, own_key
from coattest_verify.quorum.memory import parse_pinned_root
from coattest_verify.quorum.signing import candidates, pending
from coattest_verify.signatures.keys import (
    PASSPHRASE_FILE,
    Signer,
    encrypted_key,
    is_remote,
    load_remote_signer,
    load_signer,
    read_passphrase,
)

FILE = NamedPath(dir_okay=False, path_type=Path)
FOLDER = NamedPath(file_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _endpoint(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """An address that a client can be made for; one that is none is not shown, as it may hold a password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(value or "")
        if value is None or (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0):
            return value
    raise UsageError("not an http or https address", where="--endpoint-url")


def endpoint_option(help_text: str) -> Decorator:
    """``--endpoint-url``: a stand-in for AWS."""
    return click.option("--endpoint-url", callback=_endpoint, help=help_text)


DECISION = "Whose decision"
"""Heading of these options in the help."""

attestations_option: Decorator = option_group(
    judged_folder(
        click.option(
            "--attestations",
            type=FOLDER,
            default=Path("attestations"),
            show_default=True,
            help="Folder of quorum.toml, the log, and each release's claim and signed rebuilds.",
        )
    ),
    heading=DECISION,
)


@contextlib.contextmanager
def read_once(attestations: Path) -> Iterator[ReadOnce]:
    """The attestations, of which a signing command reads each file once."""
    with Folder(attestations) as folder:
        yield ReadOnce(folder)


def tell_expiry(evidence: Evidence) -> None:
    """Say on stderr that the members file expires within two weeks, or has."""
    with contextlib.suppress(CoattestError):  # who needs the file reads it, and says what is wrong with it
        tell_end(expiring(pending(evidence).current, utc_now()))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Whose signature it is: ``--member``, and the ``--key`` (a file or a URI) with its passphrase file."""

    member: str
    key: Path
    passphrase_file: Path | None

    def signer(self, evidence: Evidence, members: MembersFile | None = None) -> Signer:
        """The signer of the key file, or of the URI (then the member has its key in quorum.toml).

        Asks for the passphrase or PIN on the terminal when nothing else names it. A members file that expires
        soon is a line on stderr. Raises UsageError, also for a key that is not the member's in ``members``.
        """
        tell_expiry(evidence)
        if is_remote(str(self.key)):
            ask, known = lambda _: self._passphrase().decode(), candidates(evidence, self.member)
            signer: Signer = load_remote_signer(str(self.key), known, ask)
        else:
            signer = load_signer(self.key, self._passphrase)
        if members is not None:
            own_key(self.member, members, signer)
        return signer

    def _passphrase(self) -> bytes:
        chosen = self.passphrase_file or os.environ.get(PASSPHRASE_FILE)
        if chosen:
            return read_passphrase(Path(chosen))
        if not sys.stdin.isatty():
            raise encrypted_key(self.key, option="--passphrase-file")
        answer: str = click.prompt(f"passphrase of {self.key}", hide_input=True, err=True)
        return answer.encode()


def _signer_installed(_context: click.Context, _parameter: click.Parameter, key: Path | None) -> Path | None:
    if key is not None and is_remote(str(key)):
        need_signer(str(key))
    return key


def _signing(*, required: bool) -> Decorator:
    options = option_group(
        signing_key(
            click.option(
                "--key",
                type=FILE,
                required=required,
                callback=_signer_installed,
                help="Your private key: a PKCS#8 PEM file, awskms:ARN, or hsm:ID (PKCS#11).",
            )
        ),
        click.option(
            "--passphrase-file",
            type=FILE,
            help=f"File whose first line opens the key (else {PASSPHRASE_FILE}, else a prompt).",
        ),
        click.option("--member", required=required, metavar="NAME", help="Your name in quorum.toml."),
        heading="Who signs",
    )

    def decorate(command: Any) -> Any:
        @wraps(command)
        def packed(*, key: Path | None, passphrase_file: Path | None, member: str | None, **rest: Any) -> Any:
            if (key is None) != (member is None):
                raise UsageError("--key and --member go together")
            signing = SigningKey(member, key, passphrase_file) if key and member else None
            return command(signing=signing, **rest)

        return options(packed)

    return decorate


signing_options = _signing(required=True)
"""Who signs: passed as ``signing``, a SigningKey."""

optional_signing_options = _signing(required=False)
"""The same where signing is optional: ``signing`` is None without ``--key``."""


report_options = option_group(
    click.option(
        "--rebuild",
        "rebuilt",
        type=FOLDER,
        default=Path("out"),
        show_default=True,
        help="The OUT of verify rebuild or eif build.",
    ),
    click.option(
        "--report",
        "vouched",
        type=FILE,
        help="A build.json of your own build of which this machine has no record, such as the container"
        " route's; the images lie beside it. You vouch for it.",
    ),
)
"""This machine's build: passed as ``rebuilt`` and ``vouched``."""


root_option: Decorator = option_group(
    click.option(
        "--root",
        type=parse_pinned_root,
        metavar="sha256:HEX|NAME",
        help="Digest of quorum.toml version 1, got from the members, or your name for it in root-names.toml;"
        " with @N no version before N is taken. Remembered from the first decision or cosignature on.",
    ),
    heading=DECISION,
)


quorum_options = option_group(attestations_option, root_option)
"""Which quorum: passed as ``attestations`` and ``root``."""

release_option: Decorator = option_group(
    click.option("--release", metavar="NAME", help="The release (default: the only one there is)."),
    heading=DECISION,
)
"""Which release: passed as ``release``."""

profile_option: Decorator = option_group(
    click.option("--profile", metavar="NAME", default="aws", show_default=True, help="Profile to decide on."),
    heading=DECISION,
)


fresh_option: Decorator = option_group(
    click.option(
        "--fresh",
        type=click.IntRange(1, 3650),
        callback=lambda _context, _parameter, days: None if days is None else timedelta(days=days),
        metavar="DAYS",
        help="Decide only if enough members to change the quorum cosigned the log in the last DAYS days.",
    ),
    heading=DECISION,
)
"""How old the log's cosignatures may be: passed as ``fresh``, a time span or None."""

evidence_options = option_group(
    quorum_options,
    click.option("--bundle", type=FILE, help="Decide from a proof bundle instead of a folder; needs --root."),
    profile_option,
    fresh_option,
    heading=DECISION,
)
"""What to decide from: passed as ``attestations``, ``root``, ``bundle``, ``profile``, ``fresh``."""

decision_options = option_group(evidence_options, release_option)
"""What to decide from and on: the same, and ``release``."""

named_decision_options = option_group(
    evidence_options,
    click.option("--release", required=True, metavar="NAME", help="The release to decide on."),
    heading=DECISION,
)
"""The same for what binds somebody to a release: its name must be given."""


def several_releases_option(*, required: bool) -> Decorator:
    """Which releases: passed as ``releases``, a tuple."""
    return option_group(
        click.option(
            "--release",
            "releases",
            multiple=True,
            required=required,
            metavar="NAME",
            help="A release to decide on; repeatable: each of them must be decided.",
        ),
        heading=DECISION,
    )


def decisions_options(*, required: bool) -> Decorator:
    """The same for several releases from one folder: passed as ``releases``, a tuple."""
    return option_group(evidence_options, several_releases_option(required=required))


def decisions_from(
    options: Mapping[str, Any], *, now: datetime, own: str | None = None
) -> tuple[Decision, ...]:
    """The decision on each release that ``decisions_options`` name. Raises FoundFalse, UsageError."""
    named: tuple[str, ...] = options["releases"]
    if len(set(named)) != len(named):
        raise UsageError("names a release twice", where="--release")
    return tuple(authority_from(options, now, own, release=release).decision for release in named or (None,))
