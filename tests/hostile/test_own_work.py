"""Nothing that a checkout or a hosted folder brought counts as this machine's own work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import EnvironmentFailure, UsageError
from coattest_build.ownwork import BUILT, CONFIRMED, INPUTS, OwnWork, sha256_hex
from coattest_verify.cli.rebuild import rebuild_command
from coattest_verify.quorum.statements.salt import (
    new_secret,
    read_secret,
    secret_folder,
    write_secret,
)
from coattest_verify.quorum.statements.statement import RebuildReport
from support.raises import raises_code
from support.verify.signing_world import SigningWorld

PLANTED_SALT = "11" * 32


@pytest.fixture
def world(tmp_path: Path) -> SigningWorld:
    found = SigningWorld(tmp_path)
    found.built()
    return found


def parameters(world: SigningWorld) -> Any:
    """What buyer-1 signed about its own build."""
    statement = world.signed("rebuild.buyer-1.intoto.json")
    return statement["predicate"]["buildDefinition"]["internalParameters"]


def plant(world: SigningWorld) -> None:
    """What a publisher commits into out/ of the checkout: inputs confirmed, a salt that it knows."""
    out, file = world.desk.folder / "out", world.quorum.file
    lock = world.report["source"]["lock_sha256"]
    (out / "inputs.json").write_text(
        json.dumps({"format": "coattest-inputs/v1", "lock_sha256": lock, "confirmed": True})
    )
    (out / "commitment.json").write_text(
        json.dumps(
            {
                "format": "coattest/commitment/v1",
                "member": "buyer-1",
                "quorum_sha256": file.sha256,
                "round": file.round,
                "salt": PLANTED_SALT,
            }
        )
    )


def test_planted_inputs_and_salt_are_not_signed(world: SigningWorld) -> None:
    """Both are named and nothing is signed; without them the statement says what is so."""
    plant(world)
    out, before = world.desk.folder / "out", world.files()
    done = world.desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed, "--json")
    refusal = json.loads(done.stdout)
    assert (done.returncode, refusal["code"]) == (2, "not-own-work")
    assert "inputs.json or commitment.json" in str(refusal)
    assert world.files() == before
    for name in ("inputs.json", "commitment.json"):
        (out / name).unlink()
    done = world.desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed)
    assert done.returncode == 0, done.stderr
    signed = parameters(world)
    assert signed["salt"] is None
    assert signed["inputs"] == {"confirmed": False}
    assert "not confirmed here" in done.stderr


@pytest.mark.parametrize("name", ["inputs.json", "commitment.json"])
def test_one_planted_result_is_enough(world: SigningWorld, name: str) -> None:
    """A link that leads nowhere is something that was put there too."""
    (world.desk.folder / "out" / name).symlink_to("/nowhere")
    done = world.desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed)
    assert (done.returncode, name in done.stderr) == (2, True)


def test_own_inputs_beside_the_rebuild_are_no_obstacle(world: SigningWorld) -> None:
    """What verify inputs wrote is on record, whatever it says."""
    path = world.desk.folder / "out" / "inputs.json"
    path.write_text('{"confirmed": false}')
    OwnWork(world.desk.folder / "state" / "own-work").note(INPUTS, sha256_hex(path.read_bytes()))
    done = world.desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed)
    assert done.returncode == 0, done.stderr


def test_a_commitment_has_a_salt_of_its_own(tmp_path: Path) -> None:
    """verify commit draws its salt, keeps it out of the checkout, and sign-pcrs opens that one."""
    world = SigningWorld(tmp_path, commitments=1)
    world.built()
    (world.released / "claim.json").unlink()
    report = world.desk.folder / "out" / "rebuild.json"
    refused = world.desk.run("commit", *world.who("buyer-1"), *world.root, "--expect", f"sha256:{'0' * 64}")
    assert refused.returncode == 1
    done = world.desk.run(
        "commit", *world.who("buyer-1"), *world.root, "--expect", f"sha256:{sha256_hex(report.read_bytes())}"
    )
    assert done.returncode == 0, done.stderr
    (secret,) = (world.desk.folder / "state" / "commitments").rglob("commitment.json")
    salt = json.loads(secret.read_bytes())["salt"]
    assert len(salt) == 64
    assert secret.stat().st_mode & 0o077 == 0
    assert all(salt not in path.read_text() for path in (world.desk.folder / "out").glob("*.json"))
    world.publish(world.report)
    done = world.desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed)
    assert done.returncode == 0, done.stderr
    assert parameters(world)["salt"] == salt


def test_a_planted_commitment_does_not_open_anything(tmp_path: Path) -> None:
    """Where commitments count, the publisher's is none of this member's, and neither verb goes on with it."""
    world = SigningWorld(tmp_path, commitments=1)
    world.built()
    plant(world)
    before = world.files()
    report = sha256_hex((world.desk.folder / "out" / "rebuild.json").read_bytes())
    for verb, more, digest in (
        ("sign-pcrs", (), world.claimed),
        ("commit", world.root, f"sha256:{report}"),
    ):
        done = world.desk.run(verb, *world.who("buyer-1"), *more, "--expect", digest, "--json")
        assert (done.returncode, json.loads(done.stdout)["code"]) == (2, "not-own-work")
    assert world.files() == before


@pytest.mark.parametrize("name", ["rebuild.json", "build.json"])
@pytest.mark.parametrize("verb", ["sign-pcrs", "commit"])
def test_a_planted_build_is_not_signed(tmp_path: Path, name: str, verb: str) -> None:
    """Images with the claimed digests and a report beside them are no rebuild of this machine."""
    world = SigningWorld(tmp_path)
    world.built(own=False)
    out = world.desk.folder / "out"
    (out / "rebuild.json").rename(out / name)
    before = world.files()
    more = world.root if verb == "commit" else ()
    digest = world.claimed if verb == "sign-pcrs" else f"sha256:{sha256_hex((out / name).read_bytes())}"
    done = world.desk.run(verb, *world.who("buyer-1"), *more, "--expect", digest, "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (2, "not-own-work")
    assert world.files() == before


def test_a_changed_report_is_not_the_own_one(world: SigningWorld) -> None:
    """One flag flipped in the report that verify rebuild wrote, and it is somebody else's."""
    path = world.desk.folder / "out" / "rebuild.json"
    path.write_text(path.read_text().replace('"compiled_here": true', '"compiled_here": false'))
    done = world.desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed, "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (2, "not-own-work")


def test_a_failed_rebuild_leaves_no_result_behind(
    world: SigningWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted or left from earlier, own or not: after a rebuild that failed there is nothing to sign."""
    desk = world.desk
    desk.images("out", own=False)
    (desk.folder / "out" / "build.json").write_bytes((desk.folder / "out" / "rebuild.json").read_bytes())
    monkeypatch.chdir(desk.folder)
    monkeypatch.setenv("COATTEST_STATE", str(desk.folder / "state"))

    def fails(*_: object, **__: object) -> None:
        raise EnvironmentFailure("no network")

    monkeypatch.setattr("coattest_build.builder.build", fails)
    monkeypatch.setattr("coattest_verify.cli.rebuild._inspect", lambda *_: None)
    argv = ["--attestations", str(world.attestations)]
    done = CliRunner().invoke(rebuild_command, argv, standalone_mode=False)
    assert isinstance(done.exception, EnvironmentFailure)
    refused = desk.run("sign-pcrs", *world.who("buyer-1"), "--expect", world.claimed)
    assert (refused.returncode, "rebuild.json: no such file" in refused.stderr) == (2, True)


def test_confirmed_inputs_are_those_of_one_lock(tmp_path: Path) -> None:
    """The record is by digest: one lock, one report; taking it back works, and nothing else is touched."""
    own = OwnWork(tmp_path)
    own.note(CONFIRMED, "a" * 64)
    assert own.made(CONFIRMED, "a" * 64)
    assert not own.made(CONFIRMED, "b" * 64)
    assert not own.made(BUILT, "a" * 64)
    own.forget(CONFIRMED, "a" * 64)
    own.forget(CONFIRMED, "a" * 64)
    assert not own.made(CONFIRMED, "a" * 64)
    with raises_code(UsageError, "not-own-work"):
        own.require(BUILT, b"a report", tmp_path / "rebuild.json", "run verify rebuild")


def test_each_commitment_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another member, quorum or source never finds the salt of this one; a later version does."""
    monkeypatch.setenv("COATTEST_STATE", str(tmp_path / "state"))
    world = SigningWorld(tmp_path)
    root, report = world.quorum.root, RebuildReport.read(world.report)
    folder = secret_folder("buyer-1", root, report)
    write_secret(folder, new_secret("buyer-1", root))
    assert read_secret(folder, "buyer-1", root) is not None
    world.claim(source="next")
    other = RebuildReport.read(world.report)
    places = {
        folder,
        secret_folder("buyer-2", root, report),
        secret_folder("buyer-1", bytes(32), report),
        secret_folder("buyer-1", root, other),
    }
    assert len(places) == 4
    assert all(place.is_relative_to(tmp_path / "state") for place in places)
