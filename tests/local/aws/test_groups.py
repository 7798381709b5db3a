"""Creations that wait for signals, and pretended instances: no kinder than AWS's."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coattest_local.aws.faults import Faults
from coattest_local.aws.groups.machine import BootFailed, PretendedInstance, parse_user_data
from coattest_parent.deployment.stack import configuration
from support.build.images import plain
from support.parent.deployments import SETTINGS, Release

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=timezone.utc)


def creation() -> Any:
    """The module. Every worker imports this file, and moto's models take seconds."""
    return importlib.import_module("coattest_local.aws.stacks.creation")


def held(count: Any = 2, **parameters: str) -> Any:
    """A stack as moto leaves it, whose creation waits from now on."""
    group = {
        "Type": "AWS::AutoScaling::AutoScalingGroup",
        "CreationPolicy": {"ResourceSignal": {"Count": count, "Timeout": "PT20M"}},
    }
    stack = SimpleNamespace(
        name="s",
        stack_id="arn:s",
        template_dict={"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}, "Group": group}},
        parameters=parameters,
        resource_map=SimpleNamespace(_resource_json_map={}, delete=lambda: None),
        events=[SimpleNamespace(resource_status="CREATE_COMPLETE")],
        status="CREATE_COMPLETE",
        status_reason=None,
    )
    creation().hold(stack, NOW)
    return stack


def signal(stack: Any, instance: str, status: str = "SUCCESS") -> None:
    """SignalResource."""
    creation().signal(stack, "Group", instance, status)


def test_a_creation_is_complete_once_each_instance_was_signalled_for() -> None:
    """An id counts once; afterwards nothing waits for a signal any more."""
    stack = held()
    assert stack.status == "CREATE_IN_PROGRESS"
    for _ in range(3):
        signal(stack, "i-1")
    assert stack.status == "CREATE_IN_PROGRESS"
    signal(stack, "i-2")
    assert stack.status == "CREATE_COMPLETE"
    with pytest.raises(creation().ValidationError, match="CREATE_COMPLETE"):
        signal(stack, "i-3")


def test_the_count_is_a_parameter_or_one() -> None:
    """As a template says it."""
    stack = held({"Ref": "Capacity"}, Capacity="3")
    assert stack.coattest_waiting.count == 3


def test_a_failure_ends_a_creation_at_once_and_silence_at_its_time() -> None:
    """Both are rolled back, and the events say why."""
    failed = held()
    signal(failed, "i-1", "FAILURE")
    late = held()
    signal(late, "i-1")
    creation().end_overdue(late, NOW + timedelta(minutes=20) - timedelta(seconds=1))
    assert late.status == "CREATE_IN_PROGRESS"
    creation().end_overdue(late, NOW + timedelta(minutes=20))
    for stack, why in ((failed, "Received 1 FAILURE signal"), (late, "Failed to receive 1 resource signal")):
        assert stack.status == "ROLLBACK_COMPLETE"
        reasons = [str(event.resource_status_reason) for event in stack.events]
        assert any(reason.startswith(why) for reason in reasons)


@pytest.mark.parametrize(
    "given",
    [
        ("Group", "i-1", "YES"),
        ("Group", "", "SUCCESS"),
        ("Group", "x" * 65, "SUCCESS"),
        ("Bucket", "i-1", "SUCCESS"),
    ],
)
def test_a_signal_has_a_form(given: tuple[str, str, str]) -> None:
    """What CloudFormation would refuse is refused."""
    with pytest.raises(creation().ValidationError):
        creation().signal(held(), *given)


def test_a_time_out_has_a_form() -> None:
    """Minutes: another is no template that is emulated."""
    stack = held()
    stack.template_dict["Resources"]["Group"]["CreationPolicy"]["ResourceSignal"]["Timeout"] = "1 hour"
    with pytest.raises(creation().ValidationError, match="Timeout of Group"):
        creation().hold(stack, NOW)


DIGEST = "ab" * 32


def user_data(digest: str = DIGEST) -> str:
    """User data as CloudFormation fills it in."""
    text = configuration.boot_script(digest)
    for name, value in (
        ("${AWS::Region}", "eu-central-1"),
        ("${AWS::StackName}", "coattest-spring-0123456789ab"),
        ("${ArtifactBucket}", "artifacts"),
        ("${ResultBucket}", "results"),
    ):
        text = text.replace(name, value)
    return text


def test_an_instance_boots_from_coattests_user_data_alone() -> None:
    """No shell runs: any other script, or another line, fails the boot."""
    found = parse_user_data(user_data())
    assert found["CONFIGURATION"] == DIGEST
    for other in (
        "",
        "#!/bin/bash\ntrue\n",
        user_data().replace("set -Eeuo", "set -u"),
        user_data().replace("#!/bin/bash\n", "#!/bin/bash\ncurl http://elsewhere/\n"),
        user_data().replace("COATTEST_REGION=eu-central-1\n", ""),
        base64.b64encode(user_data().encode()).decode(),
    ):
        with pytest.raises(BootFailed):
            parse_user_data(other)


class Folder:
    """Objects in memory."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self.objects = dict(objects)

    def __call__(self, method: str, place: str, body: bytes = b"") -> bytes:
        """Put an object, or get one. Raises OSError."""
        _, _, key = place.split("/", 2)
        if method == "PUT":
            self.objects[key] = body
        elif key not in self.objects:
            raise OSError(f"s3:/{place}: AccessDenied")
        return self.objects[key]


class AtOnce(Faults):
    """Nobody waits for a dead instance's end."""

    dead_seconds = 0.0


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A decided release whose image is small."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "image.eif").write_bytes(plain().build())
    return Release.make(folder, folder / "image.eif")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"enclaves": False}, "no such device"),
        ({"cpus": 2}, "not enough CPUs"),
        ({"memory": 2048}, "not enough CPUs or memory"),
        ({"user_data": "#!/bin/bash\n"}, None),
        ({"image": b"another"}, "not the decided one"),
        ({"image": None}, "AccessDenied"),
        ({"archive": b"another"}, "did NOT match"),
        ({"programs": b"another"}, "did NOT match"),
        ({"programs": None}, "AccessDenied"),
    ],
)
def test_a_boot_that_fails_says_why_and_the_instance_powers_off(
    release: Release, tmp_path: Path, change: dict[str, Any], says: str | None
) -> None:
    """Its log is at its place in the bucket, unless it never learned which; no enclave ever ran."""
    programs = b"wheels"
    digest = hashlib.sha256(programs).hexdigest()
    settings = dataclasses.replace(SETTINGS, programs=digest)
    decision = release.authority.decision
    archive = configuration.configuration(settings, decision, ["eu-central-1"])
    name = configuration.archive_digest(archive)
    given = {"archive": archive, "image": release.image.read_bytes(), "programs": programs, **change}
    keys = {
        "archive": configuration.configuration_key(name),
        "image": configuration.image_key(decision),
        "programs": f"programs/{digest}.tar",
    }
    objects = Folder({key: given[each] for each, key in keys.items() if given[each] is not None})
    ended: list[bool] = []
    fields: dict[str, Any] = {
        "id": "i-1",
        "stack": "s",
        "role_arn": SETTINGS.role_arn,
        "user_data": user_data(name),
        "enclaves": True,
        "cpus": 4,
        "memory": 8192,
    }
    machine = PretendedInstance(
        **{key: change.get(key, value) for key, value in fields.items()},
        folder=tmp_path / "i-1",
        ask_s3=objects,
        faults=AtOnce(),
        power_off=lambda: ended.append(True),
    )
    machine.run()
    assert ended == [True]
    logs = [content.decode() for key, content in objects.objects.items() if key.endswith("/failed.log")]
    assert len(logs) == (says is not None)
    assert all(str(says) in log for log in logs)
    assert not (tmp_path / "i-1" / "enclave").exists()
