"""The software host runs what it measured, isolated, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.network import parse_network
from coattest_build.containers.own.plan import RunPlan
from coattest_build.containers.own.users import ContainerUser
from coattest_build.formats.cpio import NewEntry
from coattest_build.formats.measure import measure, pcr3, pcr4
from coattest_local import records
from coattest_local.host.console_log import console_tail, wants_nitro
from coattest_local.host.enclave import RunningEnclave, run_enclave, socket_listens
from support.build.found_images import nitro
from support.enclave.enclave_image import DIRECTORY, FILE, compile_program, make_image, rootfs
from support.raises import raises_code

ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"
RELAY = f"/bin/relay-{os.getpid()}"
"""The test enclave's program. Processes are looked for on the whole machine, where other tests may run."""

RUNNING = f"{RELAY}\0".encode()
NITRO_LOCAL = (sys.executable, "-c", "from coattest_local.cli import main; main()")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled test enclave."""
    compiled = compile_program("relay", tmp_path_factory.mktemp("relay"))
    return compiled.rename(compiled.with_name(Path(RELAY).name))


@pytest.fixture(scope="session")
def image(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that listens."""
    return make_image(tmp_path_factory.mktemp("image") / "image.eif", rootfs(program), cmd=[RELAY])


@pytest.fixture
def enclave(image: Path, tmp_path: Path) -> Iterator[RunningEnclave]:
    """The image, running."""
    with run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE) as running:
        yield running


def ask(address: str, request: Any) -> Any:
    """What the enclave's NSM answers, asked through the enclave."""
    body = cbor2.dumps(request)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(address.removeprefix("unix:"))
        connection.sendall(struct.pack(">I", len(body)) + body)
        with connection.makefile("rb") as stream:
            (length,) = struct.unpack(">I", stream.read(4))
            return cbor2.loads(stream.read(length))


def pcrs(address: str) -> dict[int, bytes]:
    """The registers in a document of the enclave."""
    document = ask(address, {"Attestation": {"nonce": b"n" * 32}})["Attestation"]["document"]
    registers: dict[int, bytes] = cbor2.loads(cbor2.loads(document)[2])["pcrs"]
    return registers


def processes_of(program_name: bytes) -> list[str]:
    """Processes of this machine whose command line names the test enclave."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "cmdline").read_bytes().startswith(program_name):
                    found.append(folder.name)
            except OSError:
                continue
    return found


def test_the_enclave_attests_what_we_measure(enclave: RunningEnclave, image: Path) -> None:
    """PCR0, 1 and 2 are those of `eif measure`, PCR3 and PCR4 those of the parent, the rest zero."""
    expected = measure(image)
    registers = {index: value.hex() for index, value in pcrs(enclave.address).items()}
    assert [registers[i] for i in range(3)] == [expected.pcr0, expected.pcr1, expected.pcr2]
    assert (registers[3], registers[4]) == (pcr3(ROLE), pcr4(INSTANCE))
    assert {registers[i] for i in range(5, 16)} == {"00" * 48}
    assert enclave.measurements == expected


def test_a_program_that_serves_once_is_not_used_up_by_the_start(program: Path, tmp_path: Path) -> None:
    """That it listens is looked up, not tried: the first connection is the caller's."""
    once = make_image(tmp_path / "o.eif", rootfs(program), cmd=[RELAY, "once"])
    with run_enclave(once, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE) as enclave:
        assert ask(enclave.address, "DescribeNSM")["DescribeNSM"]["module_id"] == enclave.enclave_id
        assert enclave.wait(60) == 8


def test_a_debug_enclave_attests_zeros(image: Path, tmp_path: Path) -> None:
    """With debug the image's registers are zero and the parent's are not."""
    with run_enclave(image, tmp_path, role_arn=ROLE, instance_id=INSTANCE, debug=True) as enclave:
        registers = pcrs(enclave.address)
    assert {index for index, value in registers.items() if value != bytes(48)} == {3, 4}


def test_the_application_runs_with_its_own_world(enclave: RunningEnclave) -> None:
    """Command, environment and root are the image's; no vsock, no network, nothing writable."""
    # The console is copied while the program runs: its last line may come after the first connection.
    deadline = time.monotonic() + 60
    while "\nwrite " not in (text := enclave.console.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("arg ")] == []
    assert sorted(line for line in lines if line.startswith("env ")) == ["env MARK=a=b", "env PATH=/bin"]
    names = {line.removeprefix("root ") for line in lines if line.startswith("root ")} - {".", ".."}
    assert names == {"bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"}
    assert "vsock Operation not permitted" in lines
    assert "loopback Network is unreachable" in lines
    assert "write Read-only file system" in lines


def test_stopping_leaves_no_process_and_no_file_but_the_log(image: Path, tmp_path: Path) -> None:
    """Children that the program left behind end too; the tree and the sockets are gone."""
    before = set(processes_of(RUNNING))
    enclave = run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert len(set(processes_of(RUNNING)) - before) == 2
    enclave.stop()
    assert set(processes_of(RUNNING)) == before
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["console.log"]
    enclave.stop()


def test_a_program_that_ends_is_reported_with_its_last_words(program: Path, tmp_path: Path) -> None:
    """The exit code and the console's end are in the one line, without control characters."""
    image = make_image(tmp_path / "x.eif", rootfs(program), cmd=[Path(RELAY).name, "exit", "3"])
    with pytest.raises(EnvironmentFailure, match=r"ended with code 3: .*goodbye") as caught:
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert caught.value.code == "enclave-ended"
    assert "\033" not in str(caught.value)
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["console.log"]


PLAN = RunPlan(
    ("static", "two words"), ("PATH=/nowhere:/bin",), ContainerUser(33, 34, (34,), ""), "/tmp", False
)


def test_an_image_of_the_container_profile_runs_as_its_plan_says(tmp_path: Path) -> None:
    """By PATH, as its user, in its working folder."""
    static = compile_program("static", tmp_path, Path(__file__).parents[2] / "support" / "container_images")
    entries = [*rootfs(static), NewEntry("run", FILE, PLAN.encode())]
    image = make_image(tmp_path / "x.eif", entries, cmd=None)
    with raises_code(EnvironmentFailure, "enclave-ended", match="ended with code 3"):
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    said = (tmp_path / "e/console.log").read_text()
    assert said.startswith(
        "word /bin/static\nword two words\nvariable PATH=/nowhere:/bin\nids 33 33 in /tmp\n"
    )


def test_a_plan_with_a_network_is_for_qemu(program: Path, tmp_path: Path) -> None:
    """The software host has no init that carries its connections."""
    plan = replace(PLAN, network=parse_network(["5005:80"], []))
    image = make_image(tmp_path / "x.eif", [*rootfs(program), NewEntry("run", FILE, plan.encode())])
    with raises_code(UsageError, "image-not-runnable", match="--host qemu"):
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)


@pytest.mark.parametrize("raw", [b"", b"x", PLAN.encode()[:-1], PLAN.encode() + b"\0", b"x" * (2 << 20)])
def test_a_plan_that_is_none_is_refused(program: Path, tmp_path: Path, raw: bytes) -> None:
    """init would end the enclave."""
    image = make_image(tmp_path / "x.eif", [*rootfs(program), NewEntry("run", FILE, raw)])
    with pytest.raises(CoattestError) as caught:
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert "run" in str(caught.value)


def test_a_program_that_never_listens_is_given_up(program: Path, tmp_path: Path) -> None:
    """After the given time the enclave is ended, and the error says that it was silent."""
    image = make_image(tmp_path / "x.eif", rootfs(program), cmd=[RELAY, "silent"])
    before = set(processes_of(RUNNING))
    with pytest.raises(EnvironmentFailure) as caught:
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE, start_seconds=0.5)
    assert caught.value.code == "enclave-silent"
    assert set(processes_of(RUNNING)) == before


@pytest.mark.parametrize(
    ("cmd", "drop", "what"),
    [
        (None, (), "names no command"),
        (["nothing-here"], (), "PATH has no"),
        (["/bin/relay"], ("rootfs",), "no rootfs"),
    ],
)
def test_an_image_without_an_application_is_refused(
    program: Path, tmp_path: Path, cmd: Sequence[str] | None, drop: Sequence[str], what: str
) -> None:
    """What is missing is named, and nothing is left in the directory."""
    entries = [entry for entry in rootfs(program) if not entry.name.startswith(tuple(drop) or "\0")]
    image = make_image(tmp_path / "x.eif", entries, cmd=cmd)
    with pytest.raises(FoundFalse, match=what) as caught:
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert caught.value.code == "image-not-runnable"
    assert list((tmp_path / "e").iterdir()) == []


def test_a_link_in_place_of_the_root_is_refused(tmp_path: Path) -> None:
    """An image cannot make a directory of this machine the root of its sandbox."""
    image = make_image(tmp_path / "x.eif", [NewEntry("rootfs", 0o120777, b"/")], cmd=["/bin/sh"])
    with pytest.raises(FoundFalse, match="no rootfs") as caught:
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert caught.value.code == "image-not-runnable"


def test_a_link_in_place_of_the_command_is_not_followed(program: Path, tmp_path: Path) -> None:
    """The command comes from the image, never from a file of this machine that it points at."""
    (tmp_path / "host-cmd").write_text("/bin/relay\n")
    entries = [*rootfs(program), NewEntry("cmd", 0o120777, str(tmp_path / "host-cmd").encode())]
    image = make_image(tmp_path / "x.eif", entries, cmd=None)
    with pytest.raises(FoundFalse, match="names no command") as caught:
        run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert caught.value.code == "image-not-runnable"


def test_a_damaged_image_is_refused_before_anything_runs(image: Path, tmp_path: Path) -> None:
    """One flipped byte is found by the strict reader."""
    damaged = bytearray(image.read_bytes())
    damaged[-600] ^= 1
    (tmp_path / "x.eif").write_bytes(damaged)
    with pytest.raises(CoattestError) as caught:
        run_enclave(tmp_path / "x.eif", tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert caught.value.exit_code == 1
    assert list((tmp_path / "e").iterdir()) == []


@pytest.mark.parametrize(
    ("role", "instance"),
    [("arn:aws:iam::1:role/x", INSTANCE), ("role/x", INSTANCE), (ROLE, "1234"), (ROLE, "i-12345678\n")],
)
def test_what_is_not_a_role_or_an_instance_is_refused(
    image: Path, tmp_path: Path, role: str, instance: str
) -> None:
    """PCR3 and PCR4 are only ever made of an ARN and an instance id."""
    with pytest.raises(UsageError):
        run_enclave(image, tmp_path, role_arn=role, instance_id=instance)


def test_a_long_directory_still_gets_usable_sockets(image: Path, tmp_path: Path) -> None:
    """Where a socket's path would be too long for the kernel, the sockets go elsewhere."""
    deep = tmp_path / ("d" * 120)
    with run_enclave(image, deep, role_arn=ROLE, instance_id=INSTANCE) as enclave:
        assert ask(enclave.address, "DescribeNSM")["DescribeNSM"]["module_id"] == enclave.enclave_id
        folder = Path(enclave.address.removeprefix("unix:")).parent
    assert not folder.exists()


def test_a_socket_whose_name_is_lines_says_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lists names as they are; an image's program binds what it likes."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as odd, socket.socket(socket.AF_UNIX) as plain:
        odd.bind("x\na b c zz e f g h")
        odd.listen()
        plain.bind("service.sock")
        assert not socket_listens(os.getpid(), tmp_path / "service.sock")
        plain.listen()
        assert socket_listens(os.getpid(), tmp_path / "service.sock")


def test_the_console_of_a_hostile_program_prints_as_one_plain_line(tmp_path: Path) -> None:
    """Escape sequences and bytes that are no text do not reach the terminal."""
    (tmp_path / "c").write_bytes(b"\x1b]0;title\x07one\ntwo \xff\x9b[2J")
    tail = console_tail(tmp_path / "c")
    assert tail.isprintable()
    assert "one / two" in tail
    assert tail.endswith(f"(console: {tmp_path / 'c'})")
    (tmp_path / "c").write_text(
        "[    0.1] kernel\n" + "".join(f"line {n}\n" for n in range(9)) + "[    9.9] end\n"
    )
    assert console_tail(tmp_path / "c").startswith("line 4 / line 5 / line 6 / line 7 / line 8 (console: ")
    assert console_tail(tmp_path / "missing") == "its console is empty"


def test_of_a_traceback_the_last_line_is_told(tmp_path: Path) -> None:
    """Also of one that has another as its cause; the log has all of it."""
    log = tmp_path / "c"
    trace = 'Traceback (most recent call last):\n  File "/app/host.py", line 17, in serve\n    x()\n'
    log.write_text(f"starts\n{trace}OSError: [Errno 97] no\n\nThe above\n\n{trace}ValueError: bad\nends\n")
    assert (
        console_tail(log)
        == f"starts / OSError: [Errno 97] no / The above / ValueError: bad / ends (console: {log})"
    )
    assert not wants_nitro(log)


@pytest.mark.parametrize(
    "last",
    [
        "PermissionError: [Errno 1] Operation not permitted",
        "OSError: [Errno 97] Address family not supported by protocol",
        "open /dev/nsm: no such file or directory",
    ],
)
def test_what_only_nitro_has_is_known_by_a_programs_last_words(last: str, tmp_path: Path) -> None:
    """In whatever language."""
    (tmp_path / "c").write_text(f"starts\n{last}\n")
    assert wants_nitro(tmp_path / "c")
    (tmp_path / "c").write_text(last + "\nmore" * 5)
    assert not wants_nitro(tmp_path / "c")


def test_a_program_for_nitro_is_told_where_it_runs(program: Path, tmp_path: Path) -> None:
    """One line, exit 3, with the image to run in place of it."""
    image = make_image(tmp_path / "image.eif", rootfs(program), cmd=[RELAY, "exit", "1"])
    failed = nitro_local(*run_arguments(image, tmp_path / "e"))
    assert (failed.returncode, json.loads(failed.stdout)["code"]) == (3, "enclave-ended")
    (line,) = [line for line in failed.stderr.splitlines() if "SIMULATOR" not in line]
    assert line.endswith("run the image of a profile for it, such as image.local.eif, or give --host qemu)")


def test_an_image_of_another_builder_is_for_qemu(tmp_path: Path) -> None:
    """Of nitro-cli's shape, which our strict reader refuses; a broken one stays a broken one."""
    image = tmp_path / "x.eif"
    image.write_bytes(nitro().build())
    refused = nitro_local(*run_arguments(image, tmp_path / "e"))
    assert (refused.returncode, json.loads(refused.stdout)["code"]) == (2, "image-not-runnable")
    (line,) = [line for line in refused.stderr.splitlines() if "SIMULATOR" not in line]
    assert "the software host runs coattest's images, not those of nitro-cli and others" in line
    assert line.endswith("(give --host qemu; `eif describe` shows it)")
    broken = nitro()
    broken.crc = 1
    image.write_bytes(broken.build())
    assert nitro_local(*run_arguments(image, tmp_path / "e")).returncode == 1
    assert list((tmp_path / "e").glob("tree-*")) == []


# ------------------------------------------------------------------------------ the command


def nitro_local(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [*NITRO_LOCAL, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def run_arguments(image: Path, directory: Path) -> list[str]:
    """The usual arguments."""
    return [
        *("run-enclave", str(image), "--directory", str(directory)),
        *("--role-arn", ROLE, "--instance-id", INSTANCE, "--json"),
    ]


@pytest.mark.slow
def test_detached_it_returns_a_record_and_ends_on_request(image: Path, tmp_path: Path) -> None:
    """The record names address, flags and measurements; terminate-enclave ends host and enclave."""
    before = set(processes_of(RUNNING))
    started = nitro_local(*run_arguments(image, tmp_path), "--detach")
    assert started.returncode == 0, started.stderr
    record = json.loads(started.stdout)
    assert record == json.loads((tmp_path / "enclave.json").read_text())
    assert record["Flags"] == "NONE"
    assert record["EnclaveName"] == "image"
    assert record["Measurements"] == measure(image).nitro_json()["Measurements"]
    assert ask(record["address"], "DescribeNSM")["DescribeNSM"]["module_id"] == record["EnclaveID"]
    assert "SIMULATOR" in (tmp_path / "host.log").read_text()

    again = nitro_local(*run_arguments(image, tmp_path), "--detach")
    assert again.returncode == 2
    assert "already runs here" in again.stderr
    assert records.running_record(tmp_path) == record

    ended = nitro_local("terminate-enclave", "--directory", str(tmp_path), "--json")
    assert json.loads(ended.stdout) == {"EnclaveID": record["EnclaveID"], "Terminated": True}
    assert set(processes_of(RUNNING)) == before
    assert not (tmp_path / "enclave.json").exists()
    assert nitro_local("terminate-enclave", "--directory", str(tmp_path)).returncode == 0
    mistyped = nitro_local("terminate-enclave", "--directory", str(tmp_path / "mistyped"), "--json")
    assert (mistyped.returncode, json.loads(mistyped.stdout)["code"]) == (2, "no-enclave")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_host_ends_the_enclave_ends_with_it(image: Path, tmp_path: Path, number: int) -> None:
    """On SIGTERM and SIGINT it cleans up and exits 0; even after SIGKILL no process of the enclave lives."""
    before = set(processes_of(RUNNING))
    host = subprocess.Popen(
        [
            *NITRO_LOCAL,
            *run_arguments(image, tmp_path),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with host:
        assert host.stdout is not None
        while host.stdout.readline().strip() != b"}":
            assert host.poll() is None
        inside = set(processes_of(RUNNING)) - before
        assert len(inside) == 2
        handles = [os.pidfd_open(int(pid)) for pid in inside]
        host.send_signal(number)
        assert host.wait(60) == (-number if number == signal.SIGKILL else 0)
        for handle in handles:
            assert select.select([handle], [], [], 60)[0]
            os.close(handle)
    assert records.running_record(tmp_path) is None
    if number != signal.SIGKILL:
        assert not (tmp_path / "enclave.json").exists()


def test_a_host_that_is_stopped_while_it_starts_leaves_nothing(program: Path, tmp_path: Path) -> None:
    """At seeded moments from its lock on, with an enclave that never listens: exit 0, and nothing is left."""
    dice = random.Random(9)
    image = make_image(tmp_path / "x.eif", rootfs(program), cmd=[RELAY, "silent"])
    for _ in range(4):
        command = [*NITRO_LOCAL, *run_arguments(image, tmp_path / "e")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as host:
            assert host.stderr is not None
            assert b"SIMULATOR" in host.stderr.readline()
            time.sleep(dice.random() / 4)
            host.send_signal(signal.SIGTERM)
            said = host.stderr.read()
        assert host.returncode == 0, said
        assert b"Traceback" not in said
        assert {path.name for path in (tmp_path / "e").iterdir()} <= {"console.log", "host.lock"}
        assert processes_of(RUNNING) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("watching", [True, False])
def test_the_services_end_cleanly_when_told(tmp_path: Path, number: int, watching: bool) -> None:
    """Exit 0 without a traceback, also while a thread of theirs waits for its parent's end."""
    command = [sys.executable, "-m", "coattest_local.aws", "--directory", str(tmp_path)]
    command += ["--exit-with-parent"] if watching else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as services:
        assert services.stderr is not None
        assert b"SIMULATOR" in services.stderr.readline()
        services.send_signal(number)
        said = services.stderr.read()
    assert services.returncode == 0, said
    assert b"Traceback" not in said
    assert b"Fatal" not in said


def test_a_detached_start_that_fails_says_why(tmp_path: Path) -> None:
    """The error of the process in the background is the error of the command, with its exit code."""
    (tmp_path / "x.eif").write_bytes(b"not an image")
    failed = nitro_local(*run_arguments(tmp_path / "x.eif", tmp_path / "e"), "--detach")
    assert failed.returncode == 1
    assert "x.eif" in failed.stderr
    assert json.loads(failed.stdout)["code"]


def test_an_image_of_the_aws_profile_names_the_one_to_run(program: Path, tmp_path: Path) -> None:
    """Exit 2 in one line, before anything of it runs; a link in the image leads to no file of ours."""
    (tmp_path / "trust.json").write_text('{"profile": "aws"}')
    entries = [*rootfs(program), NewEntry("rootfs/etc/coattest", DIRECTORY, None)]
    aws = NewEntry("rootfs/etc/coattest/trust.json", FILE, b'{"profile": "aws"}')
    refused = nitro_local(
        *run_arguments(make_image(tmp_path / "image.eif", [*entries, aws], cmd=[RELAY]), tmp_path / "e")
    )
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["code"] == "image-not-runnable"
    (line,) = [line for line in refused.stderr.splitlines() if "SIMULATOR" not in line]
    assert line.endswith("(run image.local.eif, or give --host qemu)")
    assert list((tmp_path / "e").glob("tree-*")) == []
    linked = NewEntry("rootfs/etc/coattest/trust.json", 0o120777, str(tmp_path / "trust.json").encode())
    image = make_image(tmp_path / "linked.eif", [*entries, linked], cmd=[RELAY])
    run_enclave(image, tmp_path / "f", role_arn=ROLE, instance_id=INSTANCE).stop()


WITHOUT_QEMU = """
from coattest.errors import EnvironmentFailure
from coattest_local.cli import main, run_enclave
def boots(*_, **__):
    raise EnvironmentFailure("the guest ended", code="not-booted")
run_enclave.find_tools, run_enclave.run_in_qemu = lambda: None, boots
main()
"""


def test_a_boot_in_qemu_says_that_it_boots(image: Path, tmp_path: Path) -> None:
    """It takes seconds to a minute."""
    words = [*run_arguments(image, tmp_path / "e"), "--host", "qemu"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_QEMU, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, json.loads(done.stdout)["code"]) == (3, "not-booted")
    assert done.stderr.splitlines()[1:] == ["Booting image.eif in QEMU", "nitro-local: the guest ended"]


def test_an_enclave_that_ends_takes_its_host_with_it(program: Path, tmp_path: Path) -> None:
    """run-enclave exits 3 with the console's end when the program ends."""
    image = make_image(tmp_path / "x.eif", rootfs(program), cmd=[RELAY, "exit", "5"])
    ended = nitro_local(*run_arguments(image, tmp_path / "e"))
    assert ended.returncode == 3
    assert "ended with code 5" in ended.stderr


def test_an_unpacked_tree_with_closed_folders_is_removed(program: Path, tmp_path: Path) -> None:
    """Folders that their owner may not enter do not survive the enclave."""
    closed = [
        NewEntry("rootfs/closed", DIRECTORY & ~0o777, None),
        NewEntry("rootfs/closed/in", DIRECTORY, None),
    ]
    image = make_image(tmp_path / "x.eif", [*rootfs(program), *closed], cmd=[RELAY])
    run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE).stop()
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["console.log"]
