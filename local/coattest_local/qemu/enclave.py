"""Boots the real image in QEMU's nitro-enclave machine: a second implementation reads and measures it.

QEMU emulates /dev/nsm with true registers; its documents are not signed. vhost-device-vsock gives the guest
its AF_VSOCK, backed by Unix sockets (Firecracker's hybrid vsock). Nothing here needs KVM, root or a network.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coattest.errors import EnvironmentFailure
from coattest.network import NO_NETWORK, Network, parse_target
from coattest.programs.environment import program_environment
from coattest.programs.start import start_program
from coattest_build.formats.measure import measure
from coattest_local.host.console_log import console_tail, copy_console
from coattest_local.host.enclave import RunningEnclave, check_identity, socket_directory
from coattest_local.qemu.heartbeat import HEARTBEAT_PORT, Heartbeat
from coattest_local.qemu.signer import SIGNER_VARIABLE, DocumentSigner
from coattest_local.qemu.tools import QemuTools
from coattest_parent.link.channels import (
    ENCLAVE_PORT,
    PROXY_PORT,
    ChannelFailure,
    Hybrid,
    Unix,
    connect_to,
)
from coattest_parent.link.proxy import ConnectProxy

KEEPER = Path(__file__).with_name("keeper.py")
MIB = 1024 * 1024
# The image is unpacked into the guest's memory: archive, files and Python's heap fit beside each other.
MEMORY_FLOOR_MIB = 512
MEMORY_PER_IMAGE = 4
GUEST_CID = 4
BOOT_SECONDS = 180.0
POLL_SECONDS = 0.1
# The kernel's last line (kernel/reboot.c). QEMU does not always exit after it.
REBOOTING = b"reboot: Restarting system"


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors, and memory in MiB: what the image needs when it is None."""

    cpus: int = 2
    memory: int | None = None


@dataclass(slots=True)
class QemuEnclave(RunningEnclave):
    """An enclave in QEMU that listens, with the seconds from the start to the heartbeat and to listening."""

    heartbeat_seconds: float
    listening_seconds: float


def run_in_qemu(
    image: Path,
    directory: Path,
    *,
    role_arn: str,
    instance_id: str,
    tools: QemuTools,
    accelerator: str = "tcg",
    boot_seconds: float = BOOT_SECONDS,
    port: int = ENCLAVE_PORT,
    network: Network = NO_NETWORK,
    check: Callable[[], None] | None = None,
    machine: Machine = Machine(),
) -> QemuEnclave:
    """Boot ``image`` with its files in ``directory``; returns when its vsock ``port`` accepts connections.

    With a ``network``, which is the image's own, the parent's proxy runs beside it; where that has no
    ``listen``, only the heartbeat is waited for. ``check`` is called now and then meanwhile; what it raises
    ends the start. Raises CoattestError: exit code 1 for a damaged image, 3 (not-booted) when QEMU or the
    guest ends or stays silent.
    """
    check_identity(role_arn, instance_id)
    measurements = measure(image)
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    console = directory / "console.log"
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        run = socket_directory(directory)
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        hybrid = run / "vm.sock"
        heartbeat = Heartbeat(_port_socket(hybrid, HEARTBEAT_PORT))
        stack.callback(heartbeat.close)
        vsock_log = stack.enter_context((directory / "vsock.log").open("wb"))
        options = f"guest-cid={GUEST_CID},socket={run / 'vhost.sock'},uds-path={hybrid}"
        vsock = _start_for([str(tools.vsock), "--vm", options], stack, vsock_log)
        _await_path(run / "vhost.sock", vsock, directory / "vsock.log")

        proxy = Unix(_port_socket(hybrid, PROXY_PORT))
        if network.connect:  # before the program inside, which may ask as it starts
            allow = {name: parse_target(name) for name in network.connect}
            stack.enter_context(ConnectProxy(proxy, allow))
        module_id = f"{instance_id}-enc{secrets.token_hex(8)}"
        command = qemu_command(
            tools,
            image,
            vhost=run / "vhost.sock",
            module_id=module_id,
            role_arn=role_arn,
            instance_id=instance_id,
            accelerator=accelerator,
            machine=machine,
        )
        signer = run / "signer.sock"
        stack.callback(DocumentSigner(signer).close)
        process = _start_for(command, stack, subprocess.PIPE, {SIGNER_VARIABLE: str(signer)})
        _watch_console(process, console, stack)
        deadline = started + boot_seconds

        def look() -> None:
            if check:
                check()
            if process.poll() is not None:
                raise _not_booted(f"the guest ended: {console_tail(console)}")
            if time.monotonic() > deadline:
                raise _not_booted(f"no sign of life after {boot_seconds:.0f} s: {console_tail(console)}")

        while not heartbeat.beat.wait(POLL_SECONDS):
            look()
        if network.listen or not network:
            _await_port(hybrid, port, look)
        return QemuEnclave(
            enclave_id=module_id,
            address=f"hybrid:{hybrid}:{port}",
            proxy_address=str(proxy),
            measurements=measurements,
            console=console,
            heartbeat_seconds=heartbeat.seconds or 0.0,
            listening_seconds=time.monotonic() - started,
            debug=False,
            _process=process,
            _cleanup=stack.pop_all(),
        )


def qemu_command(
    tools: QemuTools,
    image: Path,
    *,
    vhost: Path,
    module_id: str,
    role_arn: str,
    instance_id: str,
    accelerator: str,
    machine: Machine,
) -> list[str]:
    """QEMU's command line. Neither -append nor -initrd: what they add is booted and not (all) measured."""
    memory = machine.memory or max(MEMORY_FLOOR_MIB, MEMORY_PER_IMAGE * (image.stat().st_size // MIB + 1))
    ids = f"id={module_id},parent-role={_escaped(role_arn)},parent-id={instance_id}"
    return [
        str(tools.qemu),
        *("-M", f"nitro-enclave,vsock=c,{ids}"),
        *("-kernel", str(image.resolve())),
        *("-accel", accelerator, "-cpu", "max", "-smp", str(machine.cpus), "-m", f"{memory}M"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"),
        *("-chardev", f"socket,id=c,path={_escaped(str(vhost))}"),
        *(argument for folder in tools.firmware for argument in ("-L", str(folder))),
    ]


def _not_booted(what: str) -> EnvironmentFailure:
    return EnvironmentFailure(what, code="not-booted")


def _escaped(value: str) -> str:
    """A value in a QEMU option list, in which a comma separates and two are one."""
    return value.replace(",", ",,")


def _port_socket(hybrid: Path, port: int) -> Path:
    return hybrid.with_name(f"{hybrid.name}_{port}")


def _start_for(
    command: Sequence[str],
    stack: contextlib.ExitStack,
    output: int | IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command under the keeper; leaving the stack ends it."""
    process = start_program(
        [sys.executable, "-I", "-S", str(KEEPER), str(os.getpid()), *command],
        environment=program_environment((), environment),
        stdout=output,
        stderr=subprocess.STDOUT,
    )

    def end() -> None:
        # SIGTERM to the keeper kills the command and waits for it.
        process.terminate()
        process.wait()

    stack.callback(end)
    return process


def _watch_console(process: subprocess.Popen[bytes], console: Path, stack: contextlib.ExitStack) -> None:
    """Copy the guest's console, and end QEMU when the guest's kernel restarts."""
    assert process.stdout is not None
    last = b""

    def heard(block: bytes) -> None:
        nonlocal last
        if REBOOTING in last + block:
            process.terminate()
        last = block[-len(REBOOTING) :]

    with process.stdout as source:
        thread = copy_console(os.dup(source.fileno()), console, heard)

    def end() -> None:
        process.terminate()
        process.wait()
        thread.join()

    stack.callback(end)


def _await_path(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            raise _not_booted(f"vhost-device-vsock ended: {console_tail(log)}")
        if time.monotonic() > deadline:
            raise _not_booted(f"vhost-device-vsock made no socket: {console_tail(log)}")


def _await_port(hybrid: Path, port: int, check: Callable[[], None]) -> None:
    """Return when the guest accepts a connection on ``port``; ``check`` raises when it never will."""
    while True:
        with contextlib.suppress(ChannelFailure):
            connect_to(Hybrid(hybrid, port), POLL_SECONDS * 50).close()
            return
        check()
        time.sleep(POLL_SECONDS)
