"""Options that several commands share: where the attestations are, which root is pinned, which profile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click

from coattest_verify.decision import Decision, decide
from coattest_verify.keys import (
    PASSPHRASE_FILE,
    KeyUnreadable,
    PublicKey,
    is_remote,
    load_remote_signer,
    load_signer,
    read_passphrase,
)
from coattest_verify.memory import parse_root

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

Decorator = Callable[[Any], Any]

attestations_option: Decorator = click.option(
    "--attestations",
    type=FOLDER,
    default=Path("attestations"),
    show_default=True,
    help="Folder of the claim, quorum.toml and the signed rebuilds.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
key_option = click.option(
    "--key",
    type=FILE,
    required=True,
    help="Your private key: a PKCS#8 PEM file, awskms:ARN, or hsm:ID (PKCS#11).",
)
operator_option = click.option("--operator", required=True, help="Your name in quorum.toml.")
passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    help=f"File whose first line opens the key (else {PASSPHRASE_FILE}, else a prompt).",
)


def _root(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    return parse_root(value) if value is not None else None


root_option: Decorator = click.option(
    "--root",
    callback=_root,
    metavar="sha256:HEX",
    help="Digest of quorum.toml version 1, got from the operators. Remembered once given.",
)


def decision_options(command: F) -> F:
    """``--attestations``, ``--root`` and ``--profile``: passed as ``attestations``, ``root``, ``profile``."""
    profile: Decorator = click.option(
        "--profile", default="aws", show_default=True, help="Profile to decide on."
    )
    options: tuple[Decorator, ...] = (profile, root_option, attestations_option)
    for option in options:
        command = option(command)
    return command


def decision_from(
    options: Mapping[str, Any], *, now: datetime | None = None, own: str | None = None
) -> Decision:
    """The decision, recomputed from the values of ``decision_options``. Raises NoDecision."""
    return decide(
        options["attestations"],
        root=options["root"],
        profile=options["profile"],
        now=now or clock(),
        own=own,
    ).require()


def clock() -> datetime:
    """Now, in UTC. Commands take the time here and hand it to code that has no clock."""
    return datetime.now(timezone.utc)


def signer_from(key: Path, passphrase_file: Path | None, candidates: Sequence[PublicKey] = ()) -> Any:
    """The signer of a key file, or of a URI (then it must hold one of ``candidates``).

    Asks for the passphrase or PIN on the terminal when nothing else names it.
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
        return load_remote_signer(str(key), candidates, lambda _: passphrase().decode())
    return load_signer(key, passphrase)
