"""Deployment through the real software host: success is a verified live document, or nothing runs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest_build.formats.measure import measure
from coattest_parent.deployment import live, local
from coattest_parent.deployment.runner import Enclave, LocalRunner
from coattest_parent.link.enclave import EnclaveClient
from coattest_verify.quorum.decision import Decision
from support.build.python_image import make_python_image
from support.forked import own
from support.local.local_enclave import INSTANCE, ROLE, decision
from support.raises import raises_code
from support.verify.members import NOW, Members, profile_json, report_json

WHO = {"role_arn": ROLE, "instance_id": INSTANCE}


def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that runs the enclave program."""
    return make_python_image(tmp_path_factory.mktemp("image") / "image.eif")


@pytest.fixture(scope="module")
def decided(image: Path) -> Decision:
    """The decision for that image."""
    found = measure(image)
    pcrs = {index: bytes.fromhex(value) for index, value in enumerate((found.pcr0, found.pcr1, found.pcr2))}
    return dataclasses.replace(decision(pcrs), image_sha384=found.sha384, image_size=found.size)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[LocalRunner]:
    """A runner whose enclave, if any is left, ends with the test."""
    made = LocalRunner(tmp_path / "enclave")
    yield made
    if made.describe():
        made.terminate()


class Debug(LocalRunner):
    """A launcher that starts the decided image in debug mode and does not say so."""

    def _call(self, timeout: float, verb: str, *arguments: str) -> None:
        super()._call(timeout, verb, *arguments, *(["--debug-mode"] if verb == "run-enclave" else []))

    def describe(self) -> Enclave | None:
        found = super().describe()
        return dataclasses.replace(found, flags="NONE") if found else None


class Switched(LocalRunner):
    """A launcher that starts another image than the one it is given."""

    other: Path

    def run(self, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        return super().run(self.other, role_arn=role_arn, instance_id=instance_id)


def test_apply_reports_success_for_a_verified_live_enclave(
    image: Path, decided: Decision, runner: LocalRunner, tmp_path: Path
) -> None:
    """The decided image runs, answers, is found running by a second apply, and is gone after destroy."""
    said: list[str] = []
    live = local.apply_local(decided, image, runner, **WHO, state=tmp_path, clock=now, say=said.append)
    assert live.module_id.startswith(INSTANCE)
    assert len(said) == 2
    recorded = local.read_deployment(tmp_path)
    assert recorded
    assert recorded["decision"] == decided.digest.hex()
    again = local.apply_local(decided, image, runner, **WHO, state=tmp_path, clock=now)
    assert again.enclave == live.enclave
    assert again.time >= live.time
    assert local.destroy_local(runner, tmp_path) == live.enclave.id
    assert runner.describe() is None
    assert local.destroy_local(runner, tmp_path) is None
    with raises_code(UsageError, "no-deployment"):
        local.destroy_local(LocalRunner(tmp_path / "mistyped" / "enclave"), tmp_path / "mistyped")


def test_an_image_that_was_not_decided_is_never_started(
    decided: Decision, runner: LocalRunner, tmp_path: Path
) -> None:
    """One changed byte in the application: every difference is named, and nothing was started."""
    changed = make_python_image(tmp_path / "changed.eif", marker=b"changed")
    with raises_code(FoundFalse, "image-differs", match=r"sha384.*PCR0.*PCR2"):
        local.apply_local(decided, changed, runner, **WHO, state=tmp_path, clock=now)
    assert not runner.directory.exists()


@pytest.mark.parametrize("kind", [Debug, Switched])
def test_what_a_launcher_really_started_is_found_out_and_ended(
    image: Path, decided: Decision, tmp_path: Path, kind: type[LocalRunner]
) -> None:
    """A debug enclave, or another image, does not pass on the launcher's word; it is terminated."""
    runner = kind(tmp_path / "enclave")
    if isinstance(runner, Switched):
        runner.other = make_python_image(tmp_path / "other.eif", marker=b"other")
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        local.apply_local(decided, image, runner, **WHO, state=tmp_path, clock=now)
    assert runner.describe() is None
    assert local.read_deployment(tmp_path) is None


def test_a_launcher_that_says_debug_is_refused_at_once(
    image: Path, decided: Decision, tmp_path: Path
) -> None:
    """nitro-cli's Flags are looked at too."""

    class Honest(Debug):
        def describe(self) -> Enclave | None:
            return LocalRunner.describe(self)

    runner = Honest(tmp_path / "enclave")
    with pytest.raises(FoundFalse, match="DEBUG_MODE"):
        local.apply_local(decided, image, runner, **WHO, state=tmp_path, clock=now)
    assert runner.describe() is None


def test_another_role_or_instance_is_not_the_decided_deployment(
    image: Path, decided: Decision, runner: LocalRunner, tmp_path: Path
) -> None:
    """An enclave that runs for another instance is refused, and left alone: it was not started here."""
    started = runner.run(image, role_arn=ROLE, instance_id="i-00000000000000000")
    with raises_code(FoundFalse, "live-document", match="PCR4"):
        local.apply_local(decided, image, runner, **WHO, state=tmp_path, clock=now)
    left = runner.describe()
    assert left
    assert left.id == started.id
    with EnclaveClient(left.address) as client:
        assert client.alive(b"n" * 32)


def test_an_image_that_does_not_run_is_an_error_with_its_reason(tmp_path: Path, runner: LocalRunner) -> None:
    """The launcher's own last line is what the member reads."""
    broken = tmp_path / "broken.eif"
    broken.write_bytes(b"not an image")
    with raises_code(EnvironmentFailure, "enclave-not-started", match="nitro-local run-enclave"):
        runner.run(broken, **WHO)
    assert runner.describe() is None


def test_only_a_local_decision_fits_the_local_target(decided: Decision) -> None:
    """The aws profile cannot run on the software host."""
    local.require_local_profile(decided)
    with pytest.raises(UsageError, match="profile"):
        local.require_local_profile(dataclasses.replace(decided, profile="aws"))


def test_a_decision_that_expires_meanwhile_is_none(decided: Decision) -> None:
    """The day in quorum.toml counts when the enclave is asked, not only when the command began."""
    last = decided.expires - timedelta(seconds=1)
    live.require_in_force(decided, last)
    with raises_code(FoundFalse, "no-decision", match="expired at") as refused:
        live.require_in_force(decided, decided.expires)
    assert refused.value.exit_code == 1


def run(folder: Path, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """deploy-from-attestation as a process; its JSON document."""
    done = subprocess.run(
        [*own("deploy-from-attestation"), *arguments, "--json"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return dict(json.loads(done.stdout))


def test_the_commands_start_from_the_decision_and_nothing_else(image: Path, tmp_path: Path) -> None:
    """No decision, no plan and no enclave; with one: plan, apply, status, destroy, each with exit 0."""
    found = measure(image)
    members = Members.make(tmp_path / "quorum")
    local = profile_json("local", "image.local.eif")
    local["image"] |= {"size": found.size, "sha256": found.sha256, "sha384": found.sha384}
    local["pcrs"] = {"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2}
    report = report_json(profiles={"aws": profile_json("aws"), "local": local})
    members.claim(report)
    root = f"sha256:{members.root.hex()}"
    deciding = [
        "--attestations",
        str(members.attestations),
        "--root",
        root,
        "--profile",
        "local",
        "--release",
        "0.1.0",
    ]
    state = ["--state", str(tmp_path / "state")]
    wanted = ["--image", str(image), "--role-arn", ROLE, "--instance-id", INSTANCE, *state, *deciding]
    an_hour_ago = NOW - (now() - timedelta(hours=1))
    members.sign("buyer-1", report, age=an_hour_ago)
    for verb in ("plan", "apply"):
        assert run(tmp_path, verb, *wanted, expect=3)["code"] == "no-decision"
    members.sign("buyer-2", report, age=an_hour_ago)
    planned = run(tmp_path, "plan", *wanted)
    assert planned["running"] is None
    assert planned["pcrs"]["PCR0"] == found.pcr0
    assert run(tmp_path, "status", *state, *deciding, expect=1)["code"] == "not-running"
    applied = run(tmp_path, "apply", *wanted)
    try:
        assert applied["verified"] is True
        assert run(tmp_path, "status", *state, *deciding)["module_id"] == applied["module_id"]
        (members.released / "rebuild.buyer-2.intoto.json").unlink()
        assert run(tmp_path, "status", *state, *deciding, expect=3)["code"] == "no-decision"
    finally:
        ended = run(tmp_path, "destroy", *state)
    assert ended == {"terminated": applied["enclave"]["id"]}
    assert run(tmp_path, "destroy", *state) == {"terminated": None}
    assert run(tmp_path, "destroy", "--state", "mistyped", expect=2)["code"] == "no-deployment"
    for ignored in (("--plan", str(tmp_path)), ("--delete-data",), ("--endpoint-url", "http://127.0.0.1:1")):
        assert run(tmp_path, "destroy", *state, *ignored, expect=2)["code"] == "usage"
