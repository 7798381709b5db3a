"""Deployment to an instance: nitro-cli over RunCommand, against a simulator of both in another process."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from coattest.aws import AwsFailure
from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest_local.aws import services
from coattest_local.aws.runcommand.instance import PretendedInstance
from coattest_local.aws.services import Services
from coattest_parent.deployment.runner import Enclave
from coattest_parent.deployment.stack import planning, rollout, ssm, units
from coattest_parent.deployment.stack.remote import RemoteHost, cid_of, parse_enclaves
from coattest_parent.deployment.stack.ssm import Instance, script
from coattest_parent.link.aws import Aws, Endpoint
from support.build.python_image import make_python_image
from support.build.wheelhouse import make_wheel_file
from support.parent.deployments import ACCOUNTS, SETTINGS, Release, now
from support.raises import raises_code

PCRS = {f"PCR{index}": f"{index}" * 96 for index in range(3)}
RUNNING = {
    "EnclaveName": "0123456789abcdef",
    "EnclaveID": "i-0abc-enc0123",
    "ProcessID": 4711,
    "EnclaveCID": 16,
    "NumberOfCPUs": 2,
    "CPUIDs": [1, 9],
    "MemoryMiB": 2048,
    "State": "RUNNING",
    "Flags": "NONE",
    "Measurements": {"HashAlgorithm": "Sha384 { ... }", **PCRS},
}


@dataclass(frozen=True, slots=True)
class World:
    """The services, two decided releases of one quorum, and the plan of each for one deployment."""

    services: Services
    releases: tuple[Release, Release]
    plans: tuple[planning.StackPlan, planning.StackPlan]
    programs: Path
    folder: Path

    def cloud(self, host: type[RemoteHost] = RemoteHost) -> rollout.Cloud:
        """The service's account, with the enclaves of the instance."""
        admin = self.services.accounts["service"]
        session = boto3.Session(
            aws_access_key_id=admin.access_key,
            aws_secret_access_key=admin.secret_key,
            region_name=SETTINGS.region,
        )
        aws = Aws(session, Endpoint(self.services.endpoint, self.services.ca_bundle))
        return rollout.Cloud(aws, host(aws, self.plans[0].settings, lambda _: None), lambda _: None, now)

    def apply(self, which: int, host: type[RemoteHost] = RemoteHost) -> rollout.Applied:
        """Apply a plan."""
        image = self.releases[which].image
        return rollout.apply_stacks(self.plans[which], image, self.cloud(host), self.programs)

    def running(self) -> list[str]:
        """The releases that run on the instance."""
        return sorted(self.cloud().host.running())

    @property
    def instance(self) -> Path:
        """The pretended instance's folder."""
        main = rollout.Cloud.stacks(self.cloud(), self.plans[0].settings).find(
            self.plans[0].settings.main_stack
        )
        assert main
        return self.services.directory / "instances" / main.outputs["InstanceId"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A deployment whose programs are one small wheel: nothing installs them here."""
    folder = tmp_path_factory.mktemp("remote")
    images = [make_python_image(folder / f"{name}.eif", marker=name.encode()) for name in ("first", "second")]
    first = Release.make(folder / "one", images[0])
    second = Release.make(folder / "two", images[1], "0.2.0", first.members)
    wheel = make_wheel_file(folder, "app", "1.0")
    archive = planning_archive(wheel, folder)
    accounts = [f"service={SETTINGS.account}", *(f"{name}={ACCOUNTS[name]}" for name in ACCOUNTS)]
    with (
        pytest.MonkeyPatch.context() as patch,
        services.start(folder / "services", accounts=accounts, quiet=True) as running,
    ):
        patch.setattr(ssm, "POLL_SECONDS", 0.1)
        subnet = running.client("ec2", "service").describe_subnets()["Subnets"][0]
        settings = dataclasses.replace(
            SETTINGS, vpc=subnet["VpcId"], subnet=subnet["SubnetId"], programs=archive.stem
        )
        plans = tuple(
            planning.make_stack_plan(
                release.authority,
                release.image,
                settings,
                {name: release.report(name, role=settings.role_arn) for name in ACCOUNTS},
            )
            for release in (first, second)
        )
        made = World(running, (first, second), (plans[0], plans[1]), archive, folder)
        try:
            yield made
        finally:
            rollout.destroy_stacks(settings, made.cloud(), delete_data=True)


def planning_archive(wheel: Path, folder: Path) -> Path:
    """The archive of a wheel, named by its digest."""
    from coattest_parent.deployment.stack import programs

    (folder / "house").mkdir()
    content = programs.pack_programs(wheel, folder / "house")
    path = folder / f"{programs.archive_digest(content)}.tar"
    path.write_bytes(content)
    return path


def test_a_release_is_started_verified_upgraded_and_ended_on_the_instance(world: World) -> None:
    """The image comes from S3 with the role's rights, nitro-cli starts it, its document is verified here."""
    one, two = (plan.release_id for plan in world.plans)
    applied = world.apply(0)
    assert applied.live
    assert applied.live.enclave.address.cid == cid_of(one)  # type: ignore[union-attr]
    assert dict(applied.live.enclave.pcrs)[0] == world.plans[0].decision.pcrs[0]
    assert world.running() == [one]
    again = world.apply(0)
    assert again.live
    assert again.live.module_id == applied.live.module_id
    state = rollout.stacks_status(world.plans[0], world.cloud())
    assert state["findings"] == []
    assert state["live"]["module_id"] == applied.live.module_id

    upgraded = world.apply(1)
    assert upgraded.retired == (one,)
    assert world.running() == [two]
    asked = (world.instance / "systemctl.log").read_text().splitlines()
    assert asked[0] == f"enable coattest-enclave@{one}.service"
    assert asked[-1] == f"disable coattest-enclave@{one}.service"
    attended = (world.instance / units.ATTENDED.lstrip("/")).read_text()
    assert attended == f"COATTEST_ENCLAVE_CID={cid_of(two)}\nCOATTEST_ENCLAVE=vsock:{cid_of(two)}:5005\n"
    world.cloud().host.terminate(two)
    world.cloud().host.terminate(two)
    assert world.running() == []


class Debug(RemoteHost):
    """Somebody on the instance starts the decided image in debug mode."""

    def _start(self, release: str, bucket: str, sha384: str) -> list[list[str]]:
        commands = super()._start(release, bucket, sha384)
        return [[*each, "--debug-mode"] if each[0] == "nitro-cli" else each for each in commands]


class Lying(Debug):
    """And nitro-cli says that it is not."""

    def running(self) -> Mapping[str, Enclave]:
        return {
            name: dataclasses.replace(found, flags="NONE", pcrs=())
            for name, found in super().running().items()
        }


@pytest.mark.parametrize(
    ("host", "code", "message"),
    [(Debug, "debug-mode", "DEBUG_MODE"), (Lying, "live-document", "PCR0")],
)
def test_a_debug_enclave_on_the_instance_is_refused_and_ended(
    world: World, host: type[RemoteHost], code: str, message: str
) -> None:
    """By its flags, and where those lie by its document; the other release goes on."""
    world.apply(0)
    with raises_code(FoundFalse, code, match=message):
        world.apply(1, host)
    assert world.running() == [world.plans[0].release_id]


def test_an_image_that_is_not_the_planned_one_is_not_started(world: World) -> None:
    """Other bytes in the bucket fail the instance's own check, before nitro-cli is asked."""
    world.apply(0)
    world.cloud().host.terminate(world.plans[0].release_id)

    class Other(RemoteHost):
        def run(self, release: str, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
            bucket = self._output(self.settings.base_stack, "ArtifactBucket")
            key = world.plans[0].artifact.key
            self.aws.s3(SETTINGS.region).put_object(Bucket=bucket or "", Key=key, Body=b"other")
            return super().run(release, image, role_arn=role_arn, instance_id=instance_id)

    with raises_code(EnvironmentFailure, "instance-command", match="run-enclave"):
        world.apply(0, Other)
    assert world.running() == []
    assert world.apply(0).live


def test_registers_that_nitro_cli_says_otherwise_are_refused_before_the_enclave_is_asked(
    world: World,
) -> None:
    """What the runner describes is compared with the decision too."""

    class Described(RemoteHost):
        def running(self) -> Mapping[str, Enclave]:
            found = super().running()
            return {name: dataclasses.replace(each, pcrs=((0, "00" * 48),)) for name, each in found.items()}

        def document(self, enclave: Enclave, nonce: bytes) -> bytes:
            raise AssertionError("it was asked")

    world.apply(0)
    with raises_code(FoundFalse, "live-document", match="describes another image: PCR0"):
        world.apply(0, Described)
    assert world.running() == [world.plans[0].release_id]


def test_missing_rights_on_runcommand_are_one_line(world: World) -> None:
    """Credentials without ssm:SendCommand: exit 3 with AWS's own code."""
    world.apply(0)
    iam = world.services.client("iam", "service")
    iam.create_user(UserName="reader")
    text = {"Effect": "Allow", "Action": ["cloudformation:*", "ec2:*"], "Resource": "*"}
    iam.put_user_policy(
        UserName="reader",
        PolicyName="read",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [text]}),
    )
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    cloud = world.cloud()
    session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=SETTINGS.region)
    host = RemoteHost(dataclasses.replace(cloud.aws, session=session), world.plans[0].settings, cloud.say)
    with pytest.raises(AwsFailure, match="AccessDeniedException") as refused:
        host.running()
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)


def test_the_command_speaks_to_the_instance_when_no_local_folder_is_given(world: World) -> None:
    """status with --endpoint-url and without --state; and no local decision is taken for AWS itself."""
    world.apply(0)
    release, plan = world.releases[0], world.plans[0]
    reports = {f"{name}.json": release.report(name, role=plan.settings.role_arn) for name in ACCOUNTS}
    folder = world.folder / "plan"
    for name, content in planning.plan_files(plan, reports).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "parent.tar").write_bytes(world.programs.read_bytes())

    def status(*more: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("deploy-from-attestation")),
                *("status", "--target", "aws", "--plan", str(folder), "--image", str(release.image)),
                *(*release.deciding, "--json", *more),
            ],
            env={"PATH": os.environ["PATH"], **world.services.environment("service")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    place = ("--endpoint-url", world.services.endpoint, "--ca-bundle", str(world.services.ca_bundle))
    code, found = status(*place)
    assert (code, found["findings"], found["running"]) == (0, [], [plan.release_id])
    code, found = status()
    assert (code, found["code"]) == (2, "bad-profile")
    (folder / "parent.tar").write_bytes(b"other")
    code, found = status(*place)
    assert (code, found["code"]) == (1, "plan-differs")


def test_every_word_is_quoted_and_none_can_end_its_line() -> None:
    """What the shell reads is the argument list again; other characters are refused before."""
    words = ["printf", "%s  %s\\n", "a b", "--x=y"]
    first, line = script([words])
    assert first == "set -eu"
    assert shlex.split(line) == words
    (_, redirected) = script([["printf", "x", ssm.TO, "/etc/coattest/a b"]])
    assert redirected == "printf x > '/etc/coattest/a b'"
    for bad in ("a;b", "$(id)", "`id`", "a\nb", "a'b", 'a"b', "a|b", "a&b", "", "ü", "a" * 2000, ">x"):
        with pytest.raises(UsageError, match="characters that a command may not have"):
            script([["printf", bad]])


def test_nitro_clis_answer_is_read_strictly() -> None:
    """A release that runs is found, other enclaves are left out, and anything odd is an error in one line."""
    (found,) = parse_enclaves(json.dumps([RUNNING, {**RUNNING, "EnclaveName": "other"}])).values()
    assert (found.flags, found.pid) == ("NONE", 4711)
    assert str(found.address) == "vsock:16:5005"
    assert dict(found.pcrs)[2] == "2" * 96
    assert parse_enclaves("[]") == {}
    for change in (
        {"State": "EMPTY"},
        {"Measurements": {}},
        {"Measurements": {**PCRS, "PCR0": "0" * 95}},
        {"EnclaveCID": "16"},
        {"ProcessID": None},
    ):
        with raises_code(EnvironmentFailure, "enclave-not-started"):
            parse_enclaves(json.dumps([{**RUNNING, **change}]))
    for text in ("", "{}", "[1]", json.dumps([RUNNING, RUNNING])):
        with raises_code(EnvironmentFailure, "enclave-not-started"):
            parse_enclaves(text)


class Scripted:
    """RunCommand whose answers are given, one after the other; the last one for ever."""

    def __init__(self, *answers: dict[str, Any] | str) -> None:
        self.answers = list(answers)
        self.sent = 0

    def send_command(self, **_: Any) -> dict[str, Any]:
        self.sent += 1
        if self.answers[0] == "InvalidInstanceId":
            self._next()
        return {"Command": {"CommandId": "c"}}

    def get_command_invocation(self, **_: Any) -> dict[str, Any]:
        answer = self._next()
        assert isinstance(answer, dict)
        return {"StatusDetails": answer["Status"], "StandardErrorContent": "", **answer}

    def _next(self) -> dict[str, Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise ClientError({"Error": {"Code": answer, "Message": ""}}, "Scripted")
        return answer


def on(*answers: dict[str, Any] | str) -> tuple[Instance, Scripted]:
    """An instance that answers so, and whose clock runs 20 s at each look."""
    client, time = Scripted(*answers), iter(range(0, 10**6, 20))
    return Instance(client, "i-0123456789abcdef0", lambda _: None, lambda: next(time)), client  # type: ignore[arg-type]


DONE = {"Status": "Success", "StandardOutputContent": "out"}
BUSY = {"Status": "InProgress"}


def test_a_new_instance_is_waited_for_and_a_silent_one_is_not_for_ever() -> None:
    """The agent that is not there yet, the invocation that is not there yet, a command that does not end."""
    instance, client = on("InvalidInstanceId", "InvalidInstanceId", "InvocationDoesNotExist", BUSY, DONE)
    assert instance.run([["true"]], 60, "x") == "out"
    assert client.sent == 3
    with pytest.raises(AwsFailure, match="InvalidInstanceId"):
        on("InvalidInstanceId")[0].run([["true"]], 60, "x")
    with raises_code(EnvironmentFailure, "instance-command", match="no answer in 60 s"):
        on(BUSY)[0].run([["true"]], 60, "x")
    with raises_code(EnvironmentFailure, "instance-command", match="x: TimedOut: no output"):
        on({"Status": "TimedOut"})[0].run([["true"]], 60, "x")
    failed = {"Status": "Failed", "StandardErrorContent": "first\nlast\n"}
    with raises_code(EnvironmentFailure, "instance-command", match="x: Failed: first last"):
        on(failed)[0].run([["true"]], 60, "x")
    with raises_code(EnvironmentFailure, "instance-command", match="more than 24000"):
        on({**DONE, "StandardOutputContent": "x" * ssm.OUTPUT_MAX})[0].run([["true"]], 60, "x")


def test_the_pretended_instance_runs_no_shell_and_leaves_its_folder_alone(tmp_path: Path) -> None:
    """Another program, another path and a way out are refused; the first failure ends a script."""
    instance = PretendedInstance(tmp_path, "i-0123456789abcdef0", SETTINGS.role_arn, lambda *_: b"")
    for line in (
        "cat /etc/passwd",
        "cp /etc/passwd /etc/coattest/x",
        "cp /etc/coattest/../../../etc/passwd /etc/coattest/x",
        "printf x > /tmp/x",
        "bash -c id",
        "nitro-cli run-enclave --eif-path /etc/passwd",
    ):
        assert instance.run(["set -eu", line]).code == 127
    assert instance.run(["printf x"]).code == 127
    outcome = instance.run(["set -eu", "printf 'a\\n'", "sha384sum --check /etc/coattest/none", "printf b"])
    assert (outcome.code, outcome.stdout) == (1, "a\n")
