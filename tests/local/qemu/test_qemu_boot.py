"""The real image boots in QEMU's nitro-enclave machine, which measures what we measure."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coattest.errors import EnvironmentFailure
from coattest_build import builder
from coattest_build.formats import signing
from coattest_local.qemu.enclave import QemuEnclave, run_in_qemu
from coattest_local.qemu.tools import QemuTools, find_tools
from coattest_parent.link.channels import connect_to, parse_address
from coattest_verify.attestation import ExpectNonce, ExpectPcrs, ExpectPublicKey, verify_document
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from support.build.own_enclave import EXAMPLE, make_source
from support.enclave.enclave_image import compile_program, make_image, rootfs
from support.only_in import only_in
from support.verify.signing_keys import certify

pytestmark = pytest.mark.image

ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"
NITRO_LOCAL = (sys.executable, "-c", "from coattest_local.cli import main; main()")

# 32 streams with 64 KiB of credit in packets of 1 KiB are more than the ring's 1024 places.
STREAMS = 32
STREAM_BYTES = 1024 * 1024
BLOCKED_SECONDS = 0.5
CAP_SYS_TIME = 25  # linux/capability.h


@pytest.fixture(scope="module")
def tools() -> QemuTools:
    """QEMU and vhost-device-vsock, which ``tox -e boot`` builds."""
    only_in("boot")
    return find_tools()


@pytest.fixture(scope="module")
def images(built_images: Any) -> dict[str, Path]:
    """The image of each profile, built from this checkout (the kernel from the cache when it is there)."""
    return {profile: built_images.image(profile) for profile in ("aws", "local")}


@pytest.fixture
def flood(tools: QemuTools, images: dict[str, Path], tmp_path: Path) -> Iterator[QemuEnclave]:
    """The stress enclave in QEMU, on the real kernel and init."""
    program = compile_program("flood", tmp_path)
    image = make_image(tmp_path / "f.eif", rootfs(program), cmd=["/bin/flood"], base=images["local"])
    with run_in_qemu(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE, tools=tools) as enclave:
        yield enclave


def boot(image: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """nitro-local boot --json."""
    return subprocess.run(
        [
            *(*NITRO_LOCAL, "boot", str(image), "--json", "--directory", str(directory)),
            *("--role-arn", ROLE, "--instance-id", INSTANCE),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def signed_copy(image: Path, destination: Path) -> Path:
    """The image with a signature section by a fresh key."""
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(timezone.utc)
    certificate = certify(key, start=now - timedelta(days=1))
    pem = destination.with_suffix(".key")
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    sign = signing.load_sign(str(pem), certificate, ask=lambda _: "")
    signing.sign_image(image, destination, certificate=certificate, sign=sign, now=now)
    return destination


@pytest.mark.parametrize("profile", ["local", "aws"])
def test_six_registers_of_the_machine_are_ours(
    tools: QemuTools, images: dict[str, Path], tmp_path: Path, profile: str
) -> None:
    """Either profile's image boots, answers, and has PCR0, 1, 2, 3, 4 and 8 as we computed them."""
    booted = boot(images[profile], tmp_path)
    assert booted.returncode == 0, booted.stderr + (tmp_path / "console.log").read_text()
    report = json.loads(booted.stdout)
    print(booted.stdout)
    assert [line["register"] for line in report["registers"]] == [f"PCR{i}" for i in (0, 1, 2, 3, 4, 8)]
    assert all(line["equal"] and line["ours"] == line["machine"] for line in report["registers"])
    assert report["registers"][5]["machine"] == "00" * 48


def test_a_signed_image_has_our_pcr8_too(tools: QemuTools, images: dict[str, Path], tmp_path: Path) -> None:
    """QEMU's measurement of the signing certificate is ours."""
    booted = boot(signed_copy(images["local"], tmp_path / "signed.eif"), tmp_path / "e")
    assert booted.returncode == 0, booted.stderr
    print(booted.stdout)
    pcr8 = json.loads(booted.stdout)["registers"][5]
    assert pcr8["register"] == "PCR8"
    assert pcr8["equal"]
    assert pcr8["machine"] != "00" * 48


def test_a_program_that_ends_is_reported_with_the_console(
    tools: QemuTools, images: dict[str, Path], tmp_path: Path
) -> None:
    """When the program inside ends, the boot fails at once with its last words, and QEMU is gone."""
    program = compile_program("flood", tmp_path)
    command = ["/bin/flood", "exit", "4"]
    image = make_image(tmp_path / "x.eif", rootfs(program), cmd=command, base=images["local"])
    with pytest.raises(EnvironmentFailure, match="the program says goodbye") as caught:
        run_in_qemu(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE, tools=tools)
    assert caught.value.code == "not-booted"
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["console.log", "vsock.log"]


def test_a_program_keeps_one_capability_and_writes_in_memory_only(
    tools: QemuTools, images: dict[str, Path], tmp_path: Path
) -> None:
    """The real init leaves a program one capability; it mounts, makes, sets and runs nothing of its own."""
    program = compile_program("confined", tmp_path)
    image = make_image(tmp_path / "c.eif", rootfs(program), cmd=["/bin/confined"], base=images["local"])
    with pytest.raises(EnvironmentFailure) as caught:
        run_in_qemu(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE, tools=tools)
    assert caught.value.code == "not-booted"
    console = (tmp_path / "e" / "console.log").read_text()
    said = dict(line.split(":", 1) for line in console.splitlines() if line.count(":") == 1)
    found = {name: " ".join(value.split()) for name, value in said.items()}
    assert {name: found[name] for name in ("CapPrm", "CapEff", "CapBnd")} == dict.fromkeys(
        ("CapPrm", "CapEff", "CapBnd"), f"{1 << CAP_SYS_TIME:016x}"
    )
    assert found["NoNewPrivs"] == "1"
    assert found["clock"] == "possible"
    assert found["file"] == found["sysctl"] == "Read-only file system"
    assert found["node"] == found["dev"] == "Read-only file system"
    assert found["null"] == "possible"
    assert found["mount"] == found["device"] == "Operation not permitted"
    assert found["execute"] == "Permission denied"
    assert found["inet"] == "Address family not supported by protocol"


def test_stopping_ends_every_process(flood: QemuEnclave) -> None:
    """Neither QEMU nor the vsock device lives on, and the sockets are removed."""
    # The folder of this enclave's sockets: other tests, and others on this machine, run QEMU too.
    folder = Path(flood.address.split(":")[1]).parent
    names = [os.fsencode(folder / "vm.sock"), flood.enclave_id.encode()]
    assert all(running(name) for name in names)
    flood.stop()
    assert not any(running(name) for name in names)
    assert not folder.exists()


def running(argument: bytes) -> bool:
    """Whether a process of this machine has an argument that contains these bytes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in path.read_bytes() and int(path.parent.name) != os.getpid():
                return True
        except OSError:
            continue
    return False


def test_both_directions_flow_with_full_queues(flood: QemuEnclave) -> None:
    """In 32 streams neither end reads before both are blocked in writing: every byte arrives."""
    verdicts: list[bytes] = []
    threads = [threading.Thread(target=lambda: verdicts.append(stream(flood))) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert verdicts == [b"K"] * STREAMS
    assert flood.wait(0) is None


def pattern(size: int) -> bytes:
    """The bytes that both ends send (tests/support/enclave/flood.c)."""
    return bytes((at * 31 + (at >> 13)) & 0xFF for at in range(size))


PATTERN = pattern(STREAM_BYTES)


def stream(enclave: QemuEnclave) -> bytes:
    """Exchange STREAM_BYTES in both directions; the enclave's verdict, or what was wrong."""
    with connect_to(parse_address(enclave.address), 120.0) as connection:
        connection.sendall(struct.pack(">Q", STREAM_BYTES))
        blocked = threading.Event()
        sender = threading.Thread(target=send_all, args=(connection, blocked))
        sender.start()
        if not blocked.wait(60):
            return b"never blocked"
        connection.settimeout(120)
        received = bytearray()
        while len(received) < STREAM_BYTES + 1:
            block = connection.recv(65536)
            if not block:
                return b"cut short"
            received += block
        sender.join(60)
        return bytes(received[STREAM_BYTES:]) if received[:STREAM_BYTES] == PATTERN else b"wrong bytes"


def send_all(connection: socket.socket, blocked: threading.Event) -> None:
    """Send the pattern; ``blocked`` is set when the way was blocked for a while."""
    view = memoryview(PATTERN)
    while view:
        if not select.select([], [connection], [], BLOCKED_SECONDS)[1]:
            blocked.set()
            continue
        view = view[connection.send(view[:65536], socket.MSG_DONTWAIT) :]


def test_another_payload_answers_from_the_device(tools: QemuTools, tmp_path: Path) -> None:
    """The example of docs/own-enclave boots as it is built for AWS, and its document has our registers."""
    source = make_source(tmp_path / "source")
    report = builder.build(source, tmp_path / "out", profiles=["aws"])
    image = tmp_path / "out/image.eif"
    with run_in_qemu(
        image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE, tools=tools, port=7000
    ) as enclave:
        command = [sys.executable, str(EXAMPLE / "ask.py"), enclave.address, str(tmp_path / "drawn"), "Ada"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr + (tmp_path / "e/console.log").read_text()
    assert asked.stdout.startswith("Ada, one of 1 names")
    registers = [bytes.fromhex(value) for _, value in dict(report.profiles)["aws"].pcrs]
    nonce = bytes.fromhex((tmp_path / "drawn/nonce").read_text())
    verdict = verify_document(
        (tmp_path / "drawn/document.cbor").read_bytes(),
        [ExpectPcrs(dict(enumerate(registers))), ExpectNonce(nonce), ExpectPublicKey(None)],
        now=datetime.now(timezone.utc),
        root=LOCAL_SIMULATOR,
    )
    assert verdict.findings == ()
