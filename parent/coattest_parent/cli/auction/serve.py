"""``auction serve`` and ``auction proxy``: the parent's services."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from coattest.aws import AwsFailure
from coattest.errors import CoattestError, UsageError
from coattest.network import parse_network, parse_target
from coattest.shell import BUG, from_os_error, needs_extra, utc_now
from coattest_parent.auction.bucket_spool import BucketSpool
from coattest_parent.auction.courier import AWS_KMS, LOCAL_KMS
from coattest_parent.auction.folder_spool import FolderSpool
from coattest_parent.auction.jobs import JobSpool
from coattest_parent.auction.spool import Courier
from coattest_parent.auction.steps import Sessions, Way
from coattest_parent.cli.auction.options import check_prefix, way_options
from coattest_parent.cli.options import FOLDER, aws_from, aws_options
from coattest_parent.link.aws import Endpoint
from coattest_parent.link.channels import PROXY_PORT, Address, Unix, Vsock, parse_address
from coattest_parent.link.forward import PortForwarder, parse_forward
from coattest_parent.link.libraries import crash_text, hear
from coattest_parent.link.proxy import ConnectProxy, kms_allow_list
from coattest_parent.link.status import State, StatusServer, parse_status_address
from coattest_parent.link.stop import Stop, Stopped
from coattest_parent.link.telemetry import Telemetry, codes_of
from coattest_verify.rebuild.remeasure import measured_network

status_option = click.option(
    "--status", help="Answer /healthz, /readyz and /metrics here: 127.0.0.1:PORT or unix:PATH."
)


def _place(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Option callback: an address in S3, or a folder that is there."""
    return value if value.startswith("s3://") else str(FOLDER.convert(value, param, ctx))


@needs_extra("aws")
@click.command("serve")
@click.option(
    "--spool",
    "place",
    metavar="DIRECTORY|s3://BUCKET/PREFIX",
    callback=_place,
    required=True,
    help="Where each auction's manifest.cbor and seals are, under a name of its own.",
)
@way_options
@click.option("--publish", help="Also put each result under s3://bucket/prefix/NAME/, by its digest.")
@click.option(
    "--every",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="Seconds between two checks for new auctions.",
)
@click.option("--once", is_flag=True, help="Try each auction once, then end.")
@status_option
@aws_options
def serve_command(
    *,
    place: str,
    enclave: str,
    proxy: str | None,
    role_arn: str | None,
    publish: str | None,
    every: float,
    once: bool,
    status: str | None,
    endpoint_url: str | None,
    ca_bundle: Path | None,
) -> None:
    """Open auctions after their closing times, until SIGTERM.

    A failure that may pass is tried again, each auction at its own times, so that none holds up the others.
    Events go to stderr as JSON lines. It can be killed and started again at any time. A folder has one
    courier; a place in S3 any number.
    """
    with Stop("start it again: it continues where it stopped", last=True) as stop:
        parse_address(enclave)
        if publish:
            check_prefix(publish)
        way = Way(enclave, proxy, aws_from(endpoint_url, ca_bundle), role_arn)
        asked_at = parse_status_address(status) if status else None
        with _service() as telemetry:
            spool = _spool(place, way, telemetry)
            courier = Courier(spool, way, telemetry, publish)
            with spool.only(), _status(asked_at, courier.healthy, courier.ready, telemetry):
                courier.watch(threading.Event())
                _started(telemetry)
                try:
                    while not stop.told:
                        rest = every
                        try:
                            # A signal interrupts a running attempt; the next start finishes it.
                            stop.cut(courier.round, utc_now)
                            rest = min(every, courier.rest())
                        except AwsFailure as error:
                            if once:
                                raise
                            telemetry.event("spool-unread", **codes_of(error))
                        if once or stop.wait(rest):
                            break
                except Stopped:
                    pass
                courier.unwatch()
                _stopped(telemetry)


def _spool(place: str, way: Way, telemetry: Telemetry) -> JobSpool:
    """The spool at a place; raises UsageError."""
    if not place.startswith("s3://"):
        return FolderSpool(Path(place))
    check_prefix(f"{place.rstrip('/')}/")
    region = way.aws.session.region_name
    if not region:
        raise UsageError("no region", where=place, hint="set AWS_DEFAULT_REGION to the bucket's")
    return BucketSpool(place, Sessions(way.aws, way.role_arn, region, telemetry))


@click.command("proxy")
@click.option(
    "--listen",
    "address",
    default=str(Vsock(None, PROXY_PORT)),
    show_default=True,
    help="The address to listen on.",
)
@click.option("--region", "regions", multiple=True, help="A region whose KMS the enclave may reach.")
@click.option(
    "--eif",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The image file of an enclave with a network, which may reach what its measured list has.",
)
@click.option(
    "--connect",
    multiple=True,
    metavar="HOST:PORT",
    help="What an enclave with a network may reach, where its image file is not here.",
)
@click.option(
    "--forward",
    multiple=True,
    metavar="ADDRESS:PORT=ENCLAVE",
    help="A TCP port of this machine that leads to an enclave's: 0.0.0.0:443=vsock:16:5005.",
)
@status_option
@click.option("--endpoint-url", help="An endpoint on this machine in place of AWS.")
def proxy_command(
    *,
    address: str,
    regions: tuple[str, ...],
    images: tuple[Path, ...],
    connect: tuple[str, ...],
    forward: tuple[str, ...],
    status: str | None,
    endpoint_url: str | None,
) -> None:
    """Run an enclave's proxy, to KMS or to what its image allows, until SIGTERM.

    'auction open' and 'auction serve' use it with --proxy none. It connects to KMS in these regions, to these
    names, and nothing else; ports of --forward lead to the enclave. Events go to stderr as JSON lines.
    """
    if not (regions or images or connect or forward):
        raise UsageError("nothing to forward", hint="give --region, --eif, --connect or --forward")
    with Stop(last=True) as stop:
        target = Endpoint(endpoint_url or None).target
        allow = kms_allow_list(frozenset(regions), LOCAL_KMS if target else AWS_KMS, target)
        measured = [measured_network(image) for image in images]
        names = (*parse_network((), connect).connect, *(name for one in measured for name in one.connect))
        allow |= {name: parse_target(name) for name in names}
        listen = parse_address(address)
        ports = [parse_forward(text) for text in forward]
        if measured:
            _check_ports(ports, {pipe.vsock for one in measured for pipe in one.listen})
        asked_at = parse_status_address(status) if status else None
        with (
            _service() as telemetry,
            contextlib.ExitStack() as stack,
        ):
            running: list[ConnectProxy | PortForwarder] = [
                stack.enter_context(PortForwarder(place, enclave, telemetry)) for place, enclave in ports
            ]
            if allow:
                running.append(stack.enter_context(ConnectProxy(listen, allow, telemetry)))

            def serving() -> bool:
                return all(one.serving() for one in running)

            stack.enter_context(_status(asked_at, serving, serving, telemetry))
            _started(telemetry)
            while not stop.wait(1.0):
                if not serving():
                    raise Stopped("the proxy stopped unexpectedly", hint="start it again")
            _stopped(telemetry)


def _check_ports(ports: list[tuple[tuple[str, int], Address]], measured: set[int]) -> None:
    """Check that each enclave's port leads anywhere. Raises UsageError."""
    for _, enclave in ports:
        if not isinstance(enclave, Unix) and enclave.port not in measured:
            raise UsageError(
                "no enclave of --eif has this port",
                where=f"--forward {enclave}",
                hint=f"measured are {', '.join(map(str, sorted(measured))) or 'none'}",
                code="bad-address",
            )


@contextlib.contextmanager
def _service() -> Iterator[Telemetry]:
    """Events to stderr, and nothing but events to the end of the process, errors included."""
    telemetry = Telemetry(sys.stderr.fileno())
    hear(telemetry, contextlib.ExitStack(), streams=True)
    try:
        yield telemetry
    except (CoattestError, OSError) as error:
        failure = from_os_error(error) if isinstance(error, OSError) else error
        code = failure.exit_code
        telemetry.event("service-failed", **codes_of(failure), exit=code, text=str(failure))
        sys.exit(code)
    except Exception as error:
        text = crash_text(error, error.__traceback__)
        telemetry.event("service-failed", code="internal", exit=BUG, text=text)
        sys.exit(BUG)


def _status(
    address: Unix | tuple[str, int] | None,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    telemetry: Telemetry,
) -> contextlib.AbstractContextManager[object]:
    if address is None:
        return contextlib.nullcontext()
    return StatusServer(address, State(healthy, ready, telemetry.metrics), telemetry)


def _started(telemetry: Telemetry) -> None:
    telemetry.event("service-started")
    notify("READY=1")


def _stopped(telemetry: Telemetry) -> None:
    notify("STOPPING=1")
    telemetry.event("service-stopped")


def notify(state: str) -> None:
    """Tell systemd, if it asks to be told (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    name = f"\0{path[1:]}" if path.startswith("@") else path
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream,
        contextlib.suppress(OSError),
    ):
        stream.sendto(state.encode(), name)
