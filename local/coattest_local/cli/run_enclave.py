"""nitro-local run-enclave and terminate-enclave: what nitro-cli does, on a simulator."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from coattest.errors import CoattestError, EnvironmentFailure, UsageError
from coattest.jsontext import emit_json
from coattest.network import NO_NETWORK, Network
from coattest.parser import NEW_FOLDER
from coattest.programs.environment import OWN_VARIABLES, program_environment, python_program
from coattest.programs.start import start_program
from coattest.progress import Quiet, Terminal
from coattest.shell import err, json_option, out
from coattest_build.cli.options import FILE, FOLDER
from coattest_build.containers.own.imagefile import plan_of_image
from coattest_local import records
from coattest_local.host.console_log import console_tail
from coattest_local.host.enclave import WARNING, RunningEnclave, run_enclave
from coattest_local.qemu.enclave import run_in_qemu
from coattest_local.qemu.tools import find_tools
from coattest_parent.link.channels import ENCLAVE_PORT, Hybrid, parse_address
from coattest_parent.link.forward import PortForwarder
from coattest_parent.link.stop import Stop, Stopped

# The process that is detached: what it prints goes here, beside the enclave's own console.
HOST_LOG = "host.log"
READY_FD = "COATTEST_READY_FD"


@click.command("run-enclave")
@click.argument("image", type=FILE)
@click.option("--directory", type=NEW_FOLDER, required=True, help="Folder for the enclave's files.")
@click.option("--role-arn", required=True, help="The parent's role: becomes PCR3.")
@click.option("--instance-id", required=True, help="The parent's instance: becomes PCR4.")
@click.option("--debug-mode", is_flag=True, help="Attest zeros for the image, as Nitro's debug mode does.")
@click.option(
    "--host",
    type=click.Choice(["software", "qemu"]),
    default="software",
    envvar="COATTEST_LOCAL_HOST",
    show_default=True,
    help="A sandbox on this kernel, or the real image in QEMU.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 2**32 - 2),
    help=f"The vsock port at which the program listens (default: the first that was measured, else "
    f"{ENCLAVE_PORT}).",
)
@click.option("--detach", is_flag=True, help="Return when it listens; it runs until terminate-enclave.")
@json_option
def run_enclave_command(
    *,
    image: Path,
    directory: Path,
    role_arn: str,
    instance_id: str,
    debug_mode: bool,
    host: str,
    port: int | None,
    detach: bool,
    as_json: bool,
) -> int:
    """Run IMAGE on a simulator until it ends or is interrupted. It protects nothing.

    Where a network was measured (--host qemu), the parent's side runs too: its proxy to the names of the
    list, and for each measured port a TCP port of 127.0.0.1, the enclave's own where it is free.
    """
    if debug_mode and host == "qemu":
        raise UsageError("QEMU has no debug mode", hint="use --host software")
    if detach:
        # The one that is detached runs elsewhere: it gets absolute paths.
        arguments = [str(image.resolve()), "--directory", str(directory.resolve()), "--host", host]
        arguments += ["--role-arn", role_arn, "--instance-id", instance_id]
        arguments += [*(["--port", str(port)] if port else []), *(["--debug-mode"] if debug_mode else [])]
        return _detach(directory, arguments, as_json)
    plan = plan_of_image(image) if host == "qemu" else None  # the other host refuses a network
    network = plan.network if plan else NO_NETWORK
    measured = network.listen[0].vsock if network.listen else ENCLAVE_PORT
    # The start is never interrupted, so that it can clean up; it asks now and then whether to stop.
    with Stop(last=True) as stop, contextlib.suppress(Stopped), records.claimed(directory):
        err().print(WARNING, style="bold red")
        start: Callable[..., RunningEnclave] = partial(run_enclave, debug=debug_mode)
        if host == "qemu":
            start = partial(run_in_qemu, tools=find_tools(), network=network)
        progress = Terminal() if host == "qemu" else Quiet()  # which takes seconds
        with progress.step(f"Booting {image.name} in QEMU"):
            started = start(
                image,
                directory,
                role_arn=role_arn,
                instance_id=instance_id,
                port=port or measured,
                check=stop.check,
            )
        with started as enclave, outside(network, enclave.address) as ports:
            record = records.record_of(enclave, image)
            if network:
                record |= {"ports": ports, "connect": list(network.connect)}
            records.write_record(directory, record)
            _show(record, as_json)
            code = enclave.wait_unless(stop)
            raise EnvironmentFailure(
                f"the enclave's program ended with code {code}: {console_tail(enclave.console)}",
                code="enclave-ended",
            )
    return 0


@click.command("terminate-enclave")
@click.option("--directory", type=FOLDER, required=True, help="The folder that run-enclave was given.")
@json_option
def terminate_enclave_command(directory: Path, as_json: bool) -> None:
    """End the enclave that runs in a folder.

    Exit code 0 also when it had ended already; not where none ever ran.
    """
    record = records.end_enclave(directory)
    if as_json:
        emit_json({"EnclaveID": record and record["EnclaveID"], "Terminated": record is not None})
    else:
        out().print(f"ended {record['EnclaveID']}" if record else "it had ended already")


@contextlib.contextmanager
def outside(network: Network, address: str) -> Iterator[dict[str, str]]:
    """For each measured port of the enclave a TCP port of 127.0.0.1; what leads where, as texts.

    ``address`` is the enclave's, in QEMU.
    """
    with contextlib.ExitStack() as stack:
        ports = {}
        for one in network.listen:
            hybrid = parse_address(address)
            assert isinstance(hybrid, Hybrid)
            forwarder = _forwarder(stack, one.tcp, Hybrid(hybrid.path, one.vsock))
            ports[str(one.vsock)] = f"127.0.0.1:{forwarder.port}"
        yield ports


def _forwarder(stack: contextlib.ExitStack, port: int, enclave: Hybrid) -> PortForwarder:
    """At this port of 127.0.0.1, or at a free one where another program has it or it is root's."""
    try:
        return stack.enter_context(PortForwarder(("127.0.0.1", port), enclave))
    except CoattestError:
        return stack.enter_context(PortForwarder(("127.0.0.1", 0), enclave))


def _detach(directory: Path, arguments: list[str], as_json: bool) -> int:
    """Run this command again in a session of its own; return when it has a record or has ended."""
    directory.mkdir(parents=True, exist_ok=True)
    ready, told = os.pipe()
    with (directory / HOST_LOG).open("wb") as log, os.fdopen(ready, "rb") as reader:
        process = start_program(
            python_program("coattest_local.cli:main", "run-enclave", *arguments),
            environment=program_environment(OWN_VARIABLES, {READY_FD: str(told)}),
            stdout=log,
            stderr=log,
            pass_fds=(told,),
        )
        os.close(told)
        record = reader.read()
    if not record:
        code = process.wait()
        lines = (directory / HOST_LOG).read_text("utf-8", "replace").strip().splitlines()
        message = lines[-1].removeprefix("nitro-local: ") if lines else f"exit {code}"
        failure = EnvironmentFailure(message, code="enclave-not-started")
        err().print(f"nitro-local: {failure}", style="red")
        if as_json:
            emit_json({"error": message, "code": failure.code})
        return code or 3
    _print(json.loads(record), as_json)
    return 0


def _show(record: dict[str, Any], as_json: bool) -> None:
    """Give the record to the process that detached us; without one, print it."""
    descriptor = os.environ.pop(READY_FD, None)
    if descriptor is None:
        _print(record, as_json)
        return
    with os.fdopen(int(descriptor), "wb") as told:
        told.write(json.dumps(record).encode())


def _print(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(record)
        sys.stdout.flush()
        return
    for name in ("EnclaveID", "Flags", "address", "proxy_address", "console"):
        out().print(f"{name:14} {record[name]}")
    for vsock, address in record.get("ports", {}).items():
        out().print(f"{address:14} leads to port {vsock} of the enclave")
    if record.get("connect"):
        out().print(f"{'may reach':14} {', '.join(record['connect'])}")
