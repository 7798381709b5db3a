"""The real kernel on machines that QEMU does not ask for by itself, and what it lacks, in QEMU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure
from coattest_local.host.lacking import config_of, lacks_of
from coattest_local.qemu.enclave import Machine, run_in_qemu
from coattest_local.qemu.tools import QemuTools, find_tools
from support.enclave.enclave_image import compile_program, make_image, rootfs
from support.enclave.lacking import results, words
from support.only_in import only_in

pytestmark = pytest.mark.image

ROLE, INSTANCE = "arn:aws:iam::111122223333:role/parent", "i-1234567890abcdef0"
GIB = 1024
USUAL = Machine()


@pytest.fixture(scope="module")
def tools() -> QemuTools:
    """QEMU and vhost-device-vsock, which ``tox -e boot`` builds."""
    only_in("boot")
    return find_tools()


@pytest.fixture(scope="module")
def base(built_images: Any) -> Path:
    """The image for AWS: its kernel, command line and init are what is tried."""
    image: Path = built_images.image("aws")
    return image


def console_of(image: Path, folder: Path, tools: QemuTools, machine: Machine = USUAL) -> str:
    """The whole console of an image whose program says something and ends."""
    with pytest.raises(EnvironmentFailure) as caught:
        run_in_qemu(image, folder, role_arn=ROLE, instance_id=INSTANCE, tools=tools, machine=machine)
    console = (folder / "console.log").read_text(errors="replace")
    assert caught.value.code == "not-booted", console
    return console


@pytest.mark.parametrize(
    "machine",
    [
        Machine(cpus=1),
        Machine(cpus=16),
        Machine(cpus=2, memory=5 * GIB),
        Machine(cpus=16, memory=5 * GIB),
    ],
    ids=lambda machine: f"{machine.cpus}-{machine.memory or 'least'}",
)
def test_the_kernel_finds_its_machine(tools: QemuTools, base: Path, tmp_path: Path, machine: Machine) -> None:
    """All processors and all memory, vsock (the heartbeat) and the NSM."""
    image = make_image(
        tmp_path / "m.eif",
        rootfs(compile_program("machine", tmp_path)),
        cmd=["/bin/machine"],
        base=base,
    )
    console = console_of(image, tmp_path / "e", tools, machine)
    said = dict(re.findall(r"^(processors|memory|nsm) +(\S+)", console, re.MULTILINE))
    assert (said["processors"], said["nsm"]) == (str(machine.cpus), "there"), console
    if machine.memory:
        assert int(said["memory"]) > 0.95 * machine.memory * 1024


def test_an_early_console_speaks_before_the_serial_driver(
    tools: QemuTools, base: Path, tmp_path: Path
) -> None:
    """The debug path of hardware-smoke.md: what a boot says that ends before its console is up."""
    image = make_image(
        tmp_path / "d.eif",
        rootfs(compile_program("machine", tmp_path)),
        cmd=["/bin/machine"],
        base=base,
        cmdline_more=b" earlycon=uart8250,io,0x3f8,115200n8",
    )
    console = console_of(image, tmp_path / "e", tools)
    early, _, late = console.partition("console [ttyS0] enabled")
    assert "bootconsole [uart8250] enabled" in early
    assert "Linux version" in early
    assert "processors 2" in late


def test_the_kernel_lacks_what_the_software_host_refuses(
    tools: QemuTools, base: Path, tmp_path: Path
) -> None:
    """Every call and address family ends here with the errno that the software host gives."""
    lacks = lacks_of(config_of("minimal"))
    image = make_image(
        tmp_path / "l.eif",
        rootfs(compile_program("lacking", tmp_path)),
        cmd=["/bin/lacking", *words(lacks)],
        base=base,
    )
    console = console_of(image, tmp_path / "e", tools)
    assert results(console) == {word: lack.errno for lack in lacks for word in words([lack])}
