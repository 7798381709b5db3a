"""Options that several commands share: where the attestations are, which root is pinned, which profile."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from coattest.shell import Decorator, option_group, utc_now
from coattest_verify.quorum.decision import Decision, decide
from coattest_verify.quorum.memory import parse_root
from coattest_verify.quorum.signing import candidates
from coattest_verify.signatures.keys import (
    PASSPHRASE_FILE,
    KeyUnreadable,
    is_remote,
    load_remote_signer,
    load_signer,
    read_passphrase,
)

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

DECISION, SIGNING = "Whose decision", "Signing"
"""Headings of these options in the help."""

attestations_option: Decorator = option_group(
    click.option(
        "--attestations",
        type=FOLDER,
        default=Path("attestations"),
        show_default=True,
        help="Folder of the claim, quorum.toml and the signed rebuilds.",
    ),
    heading=DECISION,
)
passphrase_option: Decorator = option_group(
    click.option(
        "--passphrase-file",
        type=FILE,
        help=f"File whose first line opens the key (else {PASSPHRASE_FILE}, else a prompt).",
    ),
    heading=SIGNING,
)
signing_options = option_group(
    click.option(
        "--key",
        type=FILE,
        required=True,
        help="Your private key: a PKCS#8 PEM file, awskms:ARN, or hsm:ID (PKCS#11).",
    ),
    passphrase_option,
    click.option("--member", required=True, help="Your name in quorum.toml."),
    heading=SIGNING,
)
"""Whose signature it is: passed as ``key``, ``passphrase_file``, ``member``."""


def _root(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    return parse_root(value) if value is not None else None


root_option: Decorator = option_group(
    click.option(
        "--root",
        callback=_root,
        metavar="sha256:HEX",
        help="Digest of quorum.toml version 1, got from the members. Remembered once given.",
    ),
    heading=DECISION,
)


decision_options = option_group(
    attestations_option,
    root_option,
    click.option("--profile", default="aws", show_default=True, help="Profile to decide on."),
    heading=DECISION,
)
"""What to decide from and on: passed as ``attestations``, ``root``, ``profile``."""


def decision_from(
    options: Mapping[str, Any], *, now: datetime | None = None, own: str | None = None
) -> Decision:
    """The decision, recomputed from the values of ``decision_options``. Raises NoDecision."""
    return decide(
        options["attestations"],
        root=options["root"],
        profile=options["profile"],
        now=now or utc_now(),
        own=own,
    ).require()


def signer_from(key: Path, passphrase_file: Path | None, attestations: Path, member: str) -> Any:
    """The signer of a key file, or of a URI (then it must hold a key that the member has in quorum.toml).

    Asks for the passphrase or PIN on the terminal when nothing else names it. Raises KeyUnreadable.
    """

    def passphrase() -> bytes:
        chosen = passphrase_file or (Path(name) if (name := os.environ.get(PASSPHRASE_FILE)) else None)
        if chosen is not None:
            return read_passphrase(chosen)
        if not sys.stdin.isatty():
            raise KeyUnreadable(
                "the key is encrypted",
                where=str(key),
                hint=f"set {PASSPHRASE_FILE}, or use --passphrase-file",
            )
        answer: str = click.prompt(f"passphrase of {key}", hide_input=True, err=True)
        return answer.encode()

    if is_remote(str(key)):
        return load_remote_signer(str(key), candidates(attestations, member), lambda _: passphrase().decode())
    return load_signer(key, passphrase)
