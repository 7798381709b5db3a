"""``verify release review``: what moved since the last decided release, and what the signature names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import FoundFalse, UsageError
from coattest.files import Folder
from coattest_build.inputs import lock as locks
from coattest_build.ownwork import INPUTS, OwnWork, sha256_hex
from coattest_verify.cli.release.review import review_command
from coattest_verify.quorum.bundle import make_bundle
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.votes import REVIEW, make_vote, read_votes, sign_vote, vote_name
from support.raises import raises_code
from support.verify.members import NOW, Members, report_json

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The checkout's lock as it might have been: a package fewer, one more, one older, one of other bytes."""
    lock, _ = locks.load_lock(REPOSITORY)
    first, second, third, *rest = lock.packages
    changed = (
        replace(first, name="a-package-that-went"),
        replace(second, version="0~older"),
        replace(third, sha256="ab" * 32),
        *rest,
    )
    path = tmp_path / "old.lock"
    path.write_text(replace(lock, packages=changed).render())
    return path


def shown(*argv: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        review_command,
        ["--source", str(REPOSITORY), *argv, "--json"],
        standalone_mode=False,
        catch_exceptions=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_moved_is_shown_with_its_confirmation(old: Path, tmp_path: Path) -> None:
    """Added, removed, moved, and other bytes under one version, each with what the archives' index said."""
    lock, digest = locks.load_lock(REPOSITORY)
    first, second, third = lock.packages[:3]
    pins = [
        {"kind": "deb", "name": first.name, "confirmed": True},
        {"kind": "deb", "name": second.name, "confirmed": False},
    ]
    inputs = tmp_path / "inputs.json"
    inputs.write_text(
        json.dumps({"format": "coattest-inputs/v1", "lock_sha256": digest, "confirmed": False, "pins": pins})
    )
    OwnWork().note(INPUTS, sha256_hex(inputs.read_bytes()))
    document = shown("--since", str(old), "--inputs", str(inputs))
    assert document["kernel_profile"] == "minimal"
    moved = {row["name"]: row for row in document["moved"]}
    assert {name: (row["change"], row["confirmed"]) for name, row in moved.items()} == {
        "a-package-that-went": ("removed", None),
        first.name: ("added", True),
        second.name: ("moved", False),
        third.name: ("other bytes", None),
    }


def test_confirmations_of_another_lock_are_refused(old: Path, tmp_path: Path) -> None:
    """What verify inputs said of another lock says nothing about this one."""
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"format": "coattest-inputs/v1", "lock_sha256": "ab" * 32, "pins": []}))
    with raises_code(UsageError, "not-own-work"):
        shown("--since", str(old), "--inputs", str(inputs))
    OwnWork().note(INPUTS, sha256_hex(inputs.read_bytes()))
    with pytest.raises(UsageError, match="another lock"):
        shown("--since", str(old), "--inputs", str(inputs))


def decided(quorum: Members, lock: bytes) -> bytes:
    """The proof bundle of a decision about a source with that lock."""
    report = report_json()
    report["source"]["lock_sha256"] = hashlib.sha256(lock).hexdigest()
    quorum.claim(report)
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report)
    with Folder(quorum.attestations) as folder:
        return make_bundle(folder, now=NOW, lock=lock)


def test_the_last_release_comes_from_its_bundle(three: Members, old: Path, tmp_path: Path) -> None:
    """--since takes the lock out of a proof bundle that decides for it under the pinned root."""
    bundle = tmp_path / "proof.json"
    bundle.write_bytes(decided(three, old.read_bytes()))
    root = f"sha256:{three.root.hex()}"
    assert len(shown("--since", str(bundle), "--root", root)["moved"]) == 4
    with pytest.raises(FoundFalse, match="pinned root"):
        shown("--since", str(bundle), "--root", f"sha256:{'ab' * 32}")


def test_a_bundle_with_another_lock_is_refused(three: Members, old: Path, tmp_path: Path) -> None:
    """A bundle whose lock is not the decided one would hide what moved."""
    decided(three, b"another lock")
    bundle = tmp_path / "proof.json"
    with Folder(three.attestations) as folder:
        bundle.write_bytes(make_bundle(folder, now=NOW, lock=old.read_bytes()))
    with pytest.raises(FoundFalse, match="not the one that was decided"):
        shown("--since", str(bundle), "--root", f"sha256:{three.root.hex()}")


def test_a_review_names_the_lock_that_it_was_compared_with(three: Members) -> None:
    """The difference that was reviewed is signed: its two ends are digests in the statement."""
    assert three.claimed is not None
    vote = make_vote(
        REVIEW, "buyer-1", root=three.root, claim=three.claimed, note="read", now=NOW, since="cd" * 32
    )
    three.write(vote_name(vote), sign_vote(vote, three.signers["buyer-1"]))
    with Folder(three.attestations) as folder:
        (_, read), refused = read_votes(ReleaseFiles(folder, "0.1.0"), three.file)
    assert refused == []
    assert (read.lock_sha256, read.since) == (three.claimed.lock_sha256, "cd" * 32)


def test_a_folder_without_an_image_is_said_to_be_none(tmp_path: Path) -> None:
    """Not that there is no lock, for which the advice is to write one."""
    with pytest.raises(UsageError, match=r"no build/image\.toml here"):
        CliRunner().invoke(
            review_command, ["--source", str(tmp_path)], standalone_mode=False, catch_exceptions=False
        )
