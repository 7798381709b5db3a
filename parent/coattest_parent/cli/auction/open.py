"""``auction open``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from coattest.errors import FoundFalse
from coattest.files import read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import byte_progress, err, json_option, needs_extra, out, utc_now
from coattest.text import printable
from coattest_enclave.protocol import cose
from coattest_parent.auction.finish import Finished, finish
from coattest_parent.auction.publish import ResultFileAt, Sealed
from coattest_parent.auction.steps import Way
from coattest_parent.cli.auction.options import check_prefix, manifest_option, way_options
from coattest_parent.cli.options import FILE, aws_from, aws_options
from coattest_parent.link.enclave import Progress
from coattest_parent.link.libraries import heard
from coattest_parent.link.retry import FOR_SECONDS, Backoff
from coattest_parent.link.stop import Stop
from coattest_parent.link.telemetry import Telemetry
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest
from coattest_verify.auction.outcomes import moment_text, outcomes_json, show_outcomes


@needs_extra("aws")
@click.command("open")
@manifest_option
@click.option(
    "--seal", "seals", type=FILE, multiple=True, required=True, help="A buyer's seal; one per buyer."
)
@way_options
@click.option("--wait", is_flag=True, help="Wait for the closing time if it has not passed.")
@click.option("--publish", "publish", help="Also put the result file at s3://bucket/key.")
@click.option(
    "--retry-for",
    type=click.FloatRange(0, 86400),
    default=FOR_SECONDS,
    show_default=True,
    help="Seconds for which to try again after a failure that may pass; 0 is one attempt.",
)
@click.option("--log", "log_path", type=NEW_FILE, help="Append events to this file, as JSON lines.")
@click.option(
    "--metrics", "metrics_path", type=NEW_FILE, help="Write metrics to this file, in Prometheus' text format."
)
@click.option("--out", "out_path", type=NEW_FILE, required=True, help="The result file.")
@aws_options
@json_option
def open_command(
    *,
    manifest_path: Path,
    seals: tuple[Path, ...],
    enclave: str,
    proxy: str | None,
    role_arn: str | None,
    wait: bool,
    publish: str | None,
    retry_for: float,
    log_path: Path | None,
    metrics_path: Path | None,
    out_path: Path,
    endpoint_url: str | None,
    ca_bundle: Path | None,
    as_json: bool,
) -> None:
    """Open a sealed auction, and store its result with the receipt.

    Running it again is safe and continues where the last run stopped: one seal can give only one result, an
    existing result file is used once its receipt verifies, and an existing object is not replaced. After the
    publication deadline nothing is opened, because the receipt would not verify.
    """

    def work() -> Finished:
        manifest = load_manifest(manifest_path)
        aws = aws_from(endpoint_url, ca_bundle)
        if publish:
            check_prefix(publish)
        sealed = Sealed(manifest, tuple(read_whole(path, cose.SIGN1_MAX) for path in seals))
        way = Way(enclave, proxy, aws, role_arn, Backoff(retry_for))
        with _telemetry(log_path, metrics_path) as telemetry:
            _closed(manifest, wait)
            with _progress(manifest, quiet=as_json) as progress:
                return finish(
                    sealed,
                    ResultFileAt(out_path),
                    way,
                    now=utc_now(),
                    uri=publish,
                    telemetry=telemetry,
                    progress=progress,
                )

    with Stop("run it again: it continues where it stopped", last=True) as stop:
        _show(stop.cut(work), out_path, as_json=as_json)


def _show(finished: Finished, out_path: Path, *, as_json: bool) -> None:
    opened = finished.file
    result = messages.Result.decode(opened.result)
    if as_json:
        emit_json(
            {
                "file": str(out_path),
                "manifest": result.manifest.hex(),
                "seal": result.seal.hex(),
                "result": messages.sha384(opened.result).hex(),
                "lots": outcomes_json(result),
                "resumed": finished.resumed,
                "verified": False,
            }
        )
    else:
        show_outcomes(out(), result)
        err().print(f"{out_path}: not verified yet; use 'verify receipt'")


def _closed(manifest: messages.Manifest, wait: bool) -> None:
    """Return after the closing time; raises FoundFalse (``too-early``) before it, unless told to wait."""
    while (left := manifest.closes - utc_now().timestamp()) > 0:
        if not wait:
            raise FoundFalse(
                f"bids close at {moment_text(manifest.closes)}",
                hint="open after that, or use --wait",
                code="too-early",
            )
        err().print(f"waiting {left:.0f} s for the closing time")
        time.sleep(min(left, 60.0))


@contextlib.contextmanager
def _telemetry(log_path: Path | None, metrics_path: Path | None) -> Iterator[Telemetry]:
    """Events and what libraries say go to the log, if there is one; at the end the metrics are written."""
    with contextlib.ExitStack() as stack:
        log = None
        if log_path:
            log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            stack.callback(os.close, log)
        telemetry = Telemetry(log)
        if log_path:
            stack.enter_context(heard(telemetry, streams=False))
        try:
            yield telemetry
        finally:
            if metrics_path:
                write_atomic(metrics_path, telemetry.metrics.render().encode())


@contextlib.contextmanager
def _progress(manifest: messages.Manifest, *, quiet: bool) -> Iterator[Progress | None]:
    """A bar of bytes sent and the enclave's stages, on stderr; none with --json or without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    each = cose.ENCRYPT0_OVERHEAD + 8 * len(manifest.lots)
    with byte_progress() as display:
        total = len(manifest.encode()) + len(manifest.buyers) * each
        task = display.add_task("manifest and bid files", total=total)

        def report(stage: str, size: int) -> None:
            display.update(task, description=printable(stage), advance=size)
            if not size:  # the enclave reports a stage, so everything has been sent
                display.update(task, total=display.tasks[0].completed)

        yield report
