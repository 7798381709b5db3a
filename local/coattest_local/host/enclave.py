"""A software Nitro host: runs an image's application without a hypervisor, beside a simulated NSM.

It measures the image itself, unpacks its application ramdisks, and runs what they tell init to start (``cmd``
and ``env``, or ``run``) in a sandbox: own namespaces and root, no network, no capabilities, no AF_VSOCK. For
the kernel profile ``container`` the loopback is up, and files can be written. NSM and vsock are Unix sockets
in a directory bound at /run/coattest. **It protects nothing**: the host can read the memory of everything
that it runs, the key of the chain's root is published, and the image's kernel and init are measured but never
run. It is for running the whole chain, with the same measured bytes, on a machine without Nitro.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest.files import Folder, open_plain, read_whole
from coattest_build import sandbox
from coattest_build.containers.own.plan import DEFAULT_PATH, MAX_PLAN, RunPlan, decode_plan
from coattest_build.formats import eif, extract
from coattest_build.formats.cpio import RamdiskError
from coattest_build.formats.lenient.initramfs import unpack_ramdisks
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.measure import ImageMeasurements, measure_file, measure_found, pcr3, pcr4
from coattest_local.host.console_log import console_tail, copy_console, wants_nitro
from coattest_local.host.lacking import config_of, kernel_profile, lacks_of
from coattest_local.host.nsm import SimulatedNsm, boot_pcrs
from coattest_local.host.nsm_server import NsmServer
from coattest_parent.link.channels import ENCLAVE_PORT, PROXY_PORT, UNIX_PATH_MAX
from coattest_parent.link.stop import Stop

if TYPE_CHECKING:
    from typing_extensions import Self

WARNING = (
    "SIMULATOR: this software host protects nothing. Whoever runs it can read everything inside, and the key "
    "of its attestation root is published. It is for trying the chain on one machine."
)

FOR_THIS_HOST = (
    "this host has neither AF_VSOCK nor /dev/nsm: run the image of a profile for it, such as "
    "image.local.eif, or give --host qemu"
)
INSIDE = "/run/coattest"
ACCEPTS = 0x10000
"""A socket that listens (linux/net.h, __SO_ACCEPTCON), in /proc/PID/net/unix."""
START_SECONDS = 60.0
POLL_SECONDS = 0.02
OUTPUT_SECONDS = 60.0
"""Seconds for the console's last lines to arrive when nothing inside is left that could write more."""
TRUST_FILE = "etc/coattest/trust.json"
"""Where the auction's image says whom it trusts (coattest_enclave.payload.trust)."""
TRUST_MAX = 64 * 1024
"""Bytes of that file."""


@dataclass(slots=True)
class RunningEnclave:
    """An enclave of this host or in QEMU that listens.

    The parent's proxy listens on ``proxy_address``; ``console`` is a log file.
    """

    enclave_id: str
    address: str
    proxy_address: str
    measurements: ImageMeasurements
    console: Path
    debug: bool
    _process: subprocess.Popen[bytes] = field(repr=False)
    _cleanup: contextlib.ExitStack = field(repr=False)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code of the program (of QEMU), or None when it still runs after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def wait_unless(self, stop: Stop) -> int:
        """The exit code of the program (of QEMU), once it has ended; raises Stopped if told to stop first."""
        with contextlib.suppress(ProcessLookupError):  # it has ended, and its code was taken
            handle = os.pidfd_open(self._process.pid)
            try:
                stop.wait(readable=handle)
            finally:
                os.close(handle)
            stop.check()
        return self._process.wait()

    def stop(self) -> None:
        """End the enclave with all its processes and remove its files; the console log stays."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def run_enclave(
    image: Path,
    directory: Path,
    *,
    role_arn: str,
    instance_id: str,
    debug: bool = False,
    start_seconds: float = START_SECONDS,
    port: int = ENCLAVE_PORT,
    check: Callable[[], None] | None = None,
) -> RunningEnclave:
    """Start ``image`` with its files in ``directory`` and return when its ``port`` accepts connections.

    The port is a Unix socket here: the program listens at INSIDE/in_PORT.sock. ``role_arn`` and
    ``instance_id`` become PCR3 and PCR4; ``debug`` attests zeros for the image. ``check`` is called now and
    then while the program starts; what it raises ends the start.

    Raises CoattestError: exit code 1 for an image that is damaged or has no application, 2 for one that only
    hardware runs, 3 when it cannot be isolated, or when the program ends early (enclave-ended) or does not
    listen within ``start_seconds`` (enclave-silent).
    """
    check_identity(role_arn, instance_id)
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    with contextlib.ExitStack() as stack:
        tree = Path(tempfile.mkdtemp(prefix="tree-", dir=directory))
        stack.callback(sandbox.remove_tree, tree)
        measurements, profile = _unpack(image, tree)
        root = tree / "rootfs"
        _refuse_hardware_profile(root, image)
        plan = _plan(tree)
        if plan and plan.network:
            raise UsageError(
                "the software host has no network for a program inside",
                where=str(image),
                hint="give --host qemu",
                code="image-not-runnable",
            )
        argv, env = _program(tree, plan)

        run = socket_directory(directory)
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        module_id = f"{instance_id}-enc{secrets.token_hex(8)}"
        nsm = _nsm(measurements, module_id, role_arn=role_arn, instance_id=instance_id, debug=debug)
        stack.callback(NsmServer(run / "nsm.sock", nsm).close)

        console = directory / "console.log"
        reader, writer = os.pipe()
        pump = copy_console(reader, console)
        # The pump ends when no process inside is left that could write: only then is everything removed.
        stack.callback(pump.join)
        try:
            process = sandbox.spawn(
                root,
                argv,
                env=env,
                binds=[sandbox.Bind(run, INSIDE, writable=True)],
                **_surroundings(plan),
                lacks=lacks_of(config_of(profile)) if profile else (),
                stdout=writer,
                stderr=writer,
            )
        finally:
            os.close(writer)
        stack.callback(_end, process)
        listener = run / f"in_{port}.sock"
        _await_listener(listener, process, console, pump, seconds=start_seconds, check=check)
        return RunningEnclave(
            enclave_id=module_id,
            address=f"unix:{listener}",
            proxy_address=f"unix:{run / f'out_{PROXY_PORT}.sock'}",
            measurements=measurements,
            console=console,
            debug=debug,
            _process=process,
            _cleanup=stack.pop_all(),
        )


def check_identity(role_arn: str, instance_id: str) -> None:
    """Raise UsageError unless the two have the form of a role's ARN and an instance id (PCR3 and PCR4)."""
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}", role_arn, re.ASCII):
        raise UsageError(f"{role_arn!r} is not the ARN of an IAM role", code="bad-role-arn")
    if not re.fullmatch(r"i-[0-9a-f]{8,17}", instance_id):
        raise UsageError(f"{instance_id!r} is not an instance id", hint="i- and up to 17 hex digits")


def _unpack(image: Path, tree: Path) -> tuple[ImageMeasurements, str | None]:
    """Measure the image and extract its application ramdisks, through one open file; the kernel's profile."""
    with open_plain(image) as file, _by_coattest(file, image):
        measurements = measure_file(file)
        layout = eif.read_structure(file)
        if layout.architecture != os.uname().machine:
            raise UsageError(
                f"the image is for {layout.architecture}, this machine is {os.uname().machine}",
                where=str(image),
                code="wrong-architecture",
            )
        applications = layout.of_type(eif.SectionType.RAMDISK)[1:]
        if not applications:
            raise _not_runnable("the image has no application ramdisk", image)
        for section in applications:
            extract.extract_ramdisk(file, section, tree)
        metadata = layout.of_type(eif.SectionType.METADATA)
        profile = kernel_profile(b"".join(eif.section_blocks(file, metadata[0]))) if metadata else None
    # A link here would make a directory of this host the root of the sandbox.
    if (tree / "rootfs").is_symlink() or not (tree / "rootfs").is_dir():
        raise _not_runnable("the application ramdisk has no rootfs", image)
    return measurements, profile


@contextlib.contextmanager
def _by_coattest(file: BinaryIO, image: Path) -> Iterator[None]:
    """Within the block, an image that only our strict readers refuse is a UsageError."""
    try:
        yield
    except (eif.ImageError, RamdiskError) as error:
        file.seek(0)
        found = read_found_layout(file)
        if found.findings or unpack_ramdisks(file, found.layout).stopped is not None:
            raise
        whole = measure_found(file, found.layout, whole=False)
        if whole.crc32 != found.layout.crc32:
            raise
        raise UsageError(
            f"the software host runs coattest's images, not those of nitro-cli and others: {error.what}",
            where=str(image),
            hint="give --host qemu; `eif describe` shows it",
            code="image-not-runnable",
        ) from None


def _refuse_hardware_profile(root: Path, image: Path) -> None:
    """Raise UsageError (``image-not-runnable``) for an auction image that wants Nitro's own NSM device.

    Its program would end at once, and may not say why on the console.
    """
    try:
        with Folder(root) as inside:
            trust = json.loads(inside.read(TRUST_FILE, TRUST_MAX))
    except (CoattestError, OSError, ValueError, RecursionError):
        return  # another payload's image, or one whose program says itself what is wrong
    if isinstance(trust, dict) and trust.get("profile") == "aws":
        raise UsageError(
            "an image of the aws profile wants Nitro's NSM device, which the software host lacks",
            where=str(image),
            hint="run image.local.eif, or give --host qemu",
            code="image-not-runnable",
        )


def _plan(tree: Path) -> RunPlan | None:
    """What the container profile's init would start; None in an image of another one."""
    try:
        with Folder(tree) as inside:
            return decode_plan(inside.read("run", MAX_PLAN))
    except Rejected as error:
        if error.code == "absent":
            return None
        raise _not_runnable(f"run: {error.what}") from None


def _surroundings(plan: RunPlan | None) -> dict[str, Any]:
    """What the sandbox gives a program beside its files, in place of the image's kernel and init."""
    if plan is None:
        return {"tmpfs": ["/run"]}
    return {"cwd": plan.folder, "uid": plan.user.uid, "writable_root": True, "loopback": True}


def _program(tree: Path, plan: RunPlan | None) -> tuple[list[str], dict[str, str]]:
    """The command and environment: the plan's, or as AWS's init reads them, an entry a line."""
    argv = list(plan.words) if plan else _lines(tree / "cmd")
    if not argv:
        raise _not_runnable("the application ramdisk names no command (cmd)")
    lines = plan.environment if plan else _lines(tree / "env")
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    folder = plan.folder if plan else "/"
    return [_resolve(tree / "rootfs", argv[0], env, folder), *argv[1:]], env


def _resolve(root: Path, name: str, env: Mapping[str, str], working: str) -> str:
    """The program's absolute path inside; a bare name is looked up in the image's PATH, as execvp does."""
    if "/" in name:
        return posixpath.join(working, name)
    for folder in env.get("PATH", DEFAULT_PATH).split(":"):
        # lexists: a link may be absolute, and its target is then inside, not here.
        if folder and os.path.lexists(root / folder.lstrip("/") / name):
            return f"{folder.rstrip('/')}/{name}"
    raise _not_runnable(f"the image's PATH has no {name!r}")


def _lines(path: Path) -> list[str]:
    """The lines of a file of the image that are not empty; none when the file is missing or is a link."""
    if path.is_symlink() or not path.is_file():
        return []
    try:
        return [line for line in read_whole(path).decode().split("\n") if line]
    except UnicodeDecodeError as error:
        raise _not_runnable(f"{path.name} is not UTF-8") from error


def _nsm(
    measurements: ImageMeasurements, module_id: str, *, role_arn: str, instance_id: str, debug: bool
) -> SimulatedNsm:
    image = {index: bytes.fromhex(value) for index, value in registers(measurements).items()}
    pcrs = boot_pcrs(
        image, pcr3=bytes.fromhex(pcr3(role_arn)), pcr4=bytes.fromhex(pcr4(instance_id)), debug=debug
    )
    return SimulatedNsm(module_id=module_id, pcrs=pcrs)


def _not_runnable(what: str, image: Path | None = None) -> FoundFalse:
    return FoundFalse(what, where=str(image) if image else None, code="image-not-runnable")


def registers(measurements: ImageMeasurements) -> dict[int, str]:
    """What the image determines: PCR0, 1, 2, and PCR8 when it is signed, in hex."""
    values = {0: measurements.pcr0, 1: measurements.pcr1, 2: measurements.pcr2}
    return values if measurements.pcr8 is None else {**values, 8: measurements.pcr8}


def socket_directory(directory: Path) -> Path:
    """A private directory whose sockets have paths short enough for the kernel."""
    run = Path(tempfile.mkdtemp(prefix="run-", dir=directory)).resolve()
    if len(os.fsencode(run / f"out_{PROXY_PORT}.sock")) <= UNIX_PATH_MAX:
        return run
    run.rmdir()
    return Path(tempfile.mkdtemp(prefix="coattest-")).resolve()


def _await_listener(
    path: Path,
    process: subprocess.Popen[bytes],
    console: Path,
    pump: threading.Thread,
    *,
    seconds: float,
    check: Callable[[], None] | None,
) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if check:
            check()
        if socket_listens(process.pid, path):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(POLL_SECONDS)
            pump.join(OUTPUT_SECONDS)
            raise EnvironmentFailure(
                f"the enclave's program ended with code {code}: {console_tail(console)}",
                hint=FOR_THIS_HOST if wants_nitro(console) else None,
                code="enclave-ended",
            )
        if time.monotonic() > deadline:
            raise EnvironmentFailure(
                f"the enclave does not listen at {INSIDE}/{path.name} after {seconds:.0f} s: "
                f"{console_tail(console)}",
                hint="on this host a vsock port is a Unix socket of that name; --port names another port",
                code="enclave-silent",
            )


def socket_listens(pid: int, path: Path) -> bool:
    """Whether a socket of that name listens in the process's network namespace.

    It is looked up, not connected to: a program that serves one connection would take the probe for it.
    """
    try:
        known = Path(f"/proc/{pid}/net/unix").read_text(errors="replace")
    except OSError:  # the process has just ended
        return False
    for line in known.splitlines()[1:]:
        # Address, references, protocol, flags, type, state, inode, name: which may have a line feed.
        fields = re.fullmatch(r"[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]{8}) \S+ \S+ +[0-9]+ (.+)", line)
        if fields and int(fields[1], 16) & ACCEPTS and Path(fields[2]).name == path.name and path.exists():
            return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
