"""``verify revoke`` and ``verify review``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coattest_build import lock as locks
from coattest_build import locker
from coattest_build import source as sources
from coattest_verify.cli.options import (
    FILE,
    FOLDER,
    attestations_option,
    clock,
    json_option,
    key_option,
    operator_option,
    passphrase_option,
    root_option,
    signer_from,
)
from coattest_verify.memory import Roots
from coattest_verify.quorum.signing import candidates
from coattest_verify.quorum.votes import REVIEW, REVOKE, make_vote, sign_vote, vote_name
from coattest_verify.rebuild import own_key, read_ask
from coattest_verify.shell import FoundFalse, UsageError, emit_json, err, out, write_atomic


@click.command()
@key_option
@passphrase_option
@operator_option
@click.option("--reason", required=True, help="One line: why the release must not be used.")
@attestations_option
@root_option
@json_option
def revoke(
    *,
    key: Path,
    passphrase_file: Path | None,
    operator: str,
    reason: str,
    attestations: Path,
    root: bytes | None,
    as_json: bool,
) -> None:
    """Sign that the claimed release must not be used, such as for a known vulnerability.

    Every command that needs a decision then refuses, once as many operators as quorum.toml says signed so.
    """
    signer = signer_from(key, passphrase_file, candidates(attestations, operator))
    path = _vote(REVOKE, attestations, operator, signer, root=root, note=reason)
    _tell(path, {"revoked": True}, as_json)


@click.command()
@click.option("--source", type=FOLDER, default=Path(), help="The checkout that was reviewed.")
@click.option("--since", type=FILE, help="The lock of the last decided release, to compare with.")
@click.option("--key", type=FILE, help="Sign with this key that you reviewed the source.")
@passphrase_option
@click.option("--operator", help="Your name in quorum.toml.")
@click.option("--note", default="reviewed", show_default=True, help="One line for the others.")
@attestations_option
@root_option
@json_option
def review(
    *,
    source: Path,
    since: Path | None,
    key: Path | None,
    passphrase_file: Path | None,
    operator: str | None,
    note: str,
    attestations: Path,
    root: bytes | None,
    as_json: bool,
) -> None:
    """Show what moved in the lock since the last release; with --key, sign that you reviewed the source.

    The source must be the claim's: the signature names the digests of its tree and its lock.
    """
    if (key is None) != (operator is None):
        raise UsageError("--key and --operator go together")
    lock, _ = locks.load(source)
    earlier = locks.parse(since.read_text(encoding="utf-8")) if since else None
    moves = locker.differences(earlier, lock)
    if not as_json:
        table = Table("input", "before", "now")
        for move in moves:
            table.add_row(move.name, move.before or "absent", move.after or "absent")
        out().print(table)
    path = None
    if key is not None and operator is not None:
        _must_be_claimed(source, attestations)
        signer = signer_from(key, passphrase_file, candidates(attestations, operator))
        path = _vote(REVIEW, attestations, operator, signer, root=root, note=note)
    changed = [{"name": move.name, "before": move.before, "after": move.after} for move in moves]
    _tell(path, {"moved": changed, "compared_with": str(since) if since else None}, as_json)


def _vote(
    kind: str, attestations: Path, operator: str, signer: Any, *, root: bytes | None, note: str
) -> Path:
    ask = read_ask(attestations)
    own_key(operator, ask.policy, signer)
    pinned = root if root is not None else Roots().only()
    vote = make_vote(kind, operator, root=pinned, claim=ask.claim, note=note, now=clock())
    path = attestations / vote_name(vote)
    write_atomic(path, sign_vote(vote, signer))
    return path


def _must_be_claimed(source: Path, attestations: Path) -> None:
    claim = read_ask(attestations).claim
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = sources.take(source, Path(scratch) / "source")
    for name, mine, theirs in (
        ("source tree", snapshot.tree_sha256, claim.tree_sha256),
        ("lock", snapshot.lock_sha256, claim.lock_sha256),
    ):
        if mine != theirs:
            raise FoundFalse(
                f"the {name} is {mine}, the claim's is {theirs}", where=str(source), reason="other-source"
            )


def _tell(path: Path | None, values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json({**values, "file": str(path) if path else None})
    elif path is not None:
        err().print(f"{path}: signed", markup=False)
