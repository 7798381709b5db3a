"""``verify release archive``: a decided release may leave the folder, and nothing that objects does."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from coattest_verify.quorum.bundle import pack_bundle, read_bundle
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from support.verify.history.commits import History
from support.verify.history.shared import SharedHistory, codes
from support.verify.members import NOW, report_json
from support.verify.signing_world import NAMES, SigningWorld

RELEASE = "0.1.0"


@pytest.fixture
def world(tmp_path: Path) -> SigningWorld:
    """A release that three members agreed to and one revoked in vain, in a log that all cosigned."""
    made = SigningWorld(tmp_path / "world", revoke_threshold=2)
    made.desk.silent = False
    made.claim()
    for name in NAMES:
        made.quorum.sign(name, made.report, time=datetime.now(timezone.utc).replace(microsecond=0))
    assert made.quorum.claimed is not None
    vote = make_vote(REVOKE, "buyer-3", root=made.quorum.root, claim=made.quorum.claimed, note="x", now=NOW)
    made.quorum.write(vote_name(vote), sign_vote(vote, made.quorum.signers["buyer-3"]))
    logged(made)
    return made


def logged(world: SigningWorld) -> None:
    """Appended by one, and cosigned by all."""
    world.desk.ok("log", "append", "--attestations", str(world.attestations), *world.root)
    for name in NAMES:
        world.desk.ok("log", "cosign", *world.who(name), *world.root)


def archive(world: SigningWorld, name: str, bundle: Path, release: str = RELEASE) -> dict[str, Any]:
    """The command's answer, or its error."""
    argv = ("release", "archive", *world.who(name), *world.root, "--release", release, "--out", str(bundle))
    done = world.desk.run(*argv, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "exit": done.returncode}


def in_git(world: SigningWorld, folder: Path) -> SharedHistory:
    """The folder as it is, merged."""
    history = History(folder)
    shared = SharedHistory(world.quorum, history, "")
    shared.base = history.commit(shared.files)
    return shared


def test_an_archived_release_leaves_the_folder(world: SigningWorld, tmp_path: Path) -> None:
    """Two of three named one bundle in the log: agreements go, the objection stays, the bundle decides."""
    bundle = tmp_path / "0.1.0.json"
    told = archive(world, "buyer-1", bundle)
    assert told["sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    logged(world)
    place = f"attestations/releases/{RELEASE}/"
    gone: dict[str, Any] = {f"{place}{name}": None for name in ("claim.json", "rebuild.buyer-2.intoto.json")}
    assert set(codes(in_git(world, tmp_path / "too-few").lint(gone)[1])) == {"file-removed"}
    assert archive(world, "buyer-2", bundle)["sha256"] == told["sha256"]
    assert set(codes(in_git(world, tmp_path / "not-logged").lint(gone)[1])) == {"file-removed"}
    logged(world)
    shared = in_git(world, tmp_path / "archived")
    code, found = shared.lint(gone)
    assert (code, found["mergeable"]) == (0, True), found["findings"]
    for kind in ("revoke", "archive"):
        (name,) = (each for each in shared.files if f"/{kind}.buyer-" in each and "buyer-2" not in each)
        assert codes(shared.lint({name: None})[1]) == ["file-removed"]
    for name in ("claim.json", *(f"rebuild.{each}.intoto.json" for each in NAMES)):
        (world.released / name).unlink()
    # Who cosigns for the first time has no file of what left, and is not locked out.
    (world.attestations / "log/cosignature.buyer-3").unlink()
    newcomer = world.new_desk("newcomer")
    newcomer.ok("log", "cosign", *world.who("buyer-3"), *world.root)
    decided = newcomer.json("quorum", "--bundle", str(bundle), *world.root, "--at", "bundle")
    assert decided["decided"] is True


def test_an_undecided_release_is_not_archived(world: SigningWorld, tmp_path: Path) -> None:
    """Neither one that lacks an agreement, nor under another's bundle of something else."""
    (world.released / "rebuild.buyer-1.intoto.json").unlink()
    (world.released / "rebuild.buyer-2.intoto.json").unlink()
    bundle = tmp_path / "new.json"
    found = archive(world, "buyer-1", bundle)
    assert (found["exit"], found["code"]) == (3, "no-decision")
    assert not bundle.exists()
    assert not list(world.released.glob("archive.*"))


def test_a_bundle_that_does_not_decide_is_not_named(world: SigningWorld, tmp_path: Path) -> None:
    """A file that is there already is another member's, and is judged like anybody's."""
    bundle = tmp_path / "0.1.0.json"
    assert archive(world, "buyer-1", bundle)["exit"] == 0
    held = read_bundle(bundle.read_bytes())
    names = list(json.loads(bundle.read_bytes())["files"])
    gone = [name for name in names if "/rebuild.buyer-" in name][1:]
    left = {name: held.files.read(name) for name in names if name not in gone}
    bundle.write_bytes(pack_bundle(left, held.made))
    found = archive(world, "buyer-2", bundle)
    assert (found["exit"], found["code"]) == (1, "bad-bundle")


def test_a_claim_swapped_while_the_passphrase_is_read_is_not_archived(
    world: SigningWorld, tmp_path: Path
) -> None:
    """What is archived is what was decided, and not another source under the release's name."""
    decided = world.report["source"]["tree_sha256"]
    path = world.folder / "keys" / "buyer-1"
    key = load_pem_private_key(path.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    path.write_bytes(locked)
    fifo, bundle = tmp_path / "fifo", tmp_path / "0.1.0.json"
    os.mkfifo(fifo)
    digest = archive(world, "buyer-2", bundle)["sha256"]

    def swap() -> None:
        with fifo.open("w") as opened:
            world.publish(report_json("evil", source="evil"))
            opened.write("secret\n")

    host = threading.Thread(target=swap)
    host.start()
    done = world.desk.run(
        "release", "archive", *world.who("buyer-1"), "--passphrase-file", str(fifo), *world.root,
        "--release", RELEASE, "--out", str(bundle), "--expect", f"sha256:{digest}",
    )  # fmt: skip
    host.join()
    assert done.returncode == 0, done.stderr
    assert world.signed("archive.buyer-1.*")["source"]["tree_sha256"] == decided
