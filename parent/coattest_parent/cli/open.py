"""``auction open``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import click

from coattest_enclave import cose, messages
from coattest_parent.auction import TooEarly, moment_text, open_sealed
from coattest_parent.aws import aws_errors, parse_s3_uri, region_of
from coattest_parent.cli.options import (
    FILE,
    NEW_FILE,
    aws_from,
    aws_options,
    json_option,
    manifest_option,
    now,
)
from coattest_parent.enclave import Progress
from coattest_verify.buyers import load_manifest
from coattest_verify.outcomes import outcomes_json, outcomes_table
from coattest_verify.shell import UsageError, byte_progress, emit_json, err, out, write_atomic


@click.command("open")
@manifest_option
@click.option(
    "--seal", "seals", type=FILE, multiple=True, required=True, help="A buyer's seal; one per buyer."
)
@click.option("--enclave", required=True, help="vsock:CID:PORT, unix:PATH or hybrid:PATH:PORT.")
@click.option(
    "--proxy", help="Where the enclave looks for the proxy to KMS (default: by the enclave's kind)."
)
@click.option("--assume-role", "role_arn", help="Assume this role first, as an instance profile would.")
@click.option("--wait", is_flag=True, help="Wait for the closing time, if need be.")
@click.option("--publish", "publish", help="Also put the result file at s3://bucket/key.")
@click.option("--out", "out_path", type=NEW_FILE, required=True, help="The result file.")
@aws_options
@json_option
def open_(
    *,
    manifest_path: Path,
    seals: tuple[Path, ...],
    enclave: str,
    proxy: str | None,
    role_arn: str | None,
    wait: bool,
    publish: str | None,
    out_path: Path,
    endpoint_url: str | None,
    ca_bundle: Path | None,
    as_json: bool,
) -> None:
    """Have the enclave open a sealed auction, and store its result with its receipt.

    Calling it again is safe: one seal can only give one result.
    """
    manifest = load_manifest(manifest_path)
    aws = aws_from(endpoint_url, ca_bundle)
    destination = parse_s3_uri(publish) if publish else None
    _closed(manifest, wait)
    with _progress(sum(1 for _ in manifest.buyers)) as progress:
        opened = open_sealed(
            manifest,
            [_read_seal(path) for path in seals],
            enclave=enclave,
            proxy=proxy,
            aws=aws,
            role_arn=role_arn,
            progress=progress,
        )
    content = opened.encode()
    write_atomic(out_path, content)
    if destination:
        with aws_errors(publish or ""):
            aws.s3(region_of(manifest.buyers[0].kms)).put_object(
                Bucket=destination[0], Key=destination[1], Body=content, ChecksumAlgorithm="SHA256"
            )
    result = messages.Result.decode(opened.result)
    if as_json:
        emit_json(
            {
                "file": str(out_path),
                "manifest": result.manifest.hex(),
                "seal": result.seal.hex(),
                "result": messages.sha384(opened.result).hex(),
                "lots": outcomes_json(result),
                "verified": False,
            }
        )
    else:
        out().print(outcomes_table(result))
        err().print(f"{out_path}: not verified yet; 'verify receipt' does that", markup=False)


def _read_seal(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(cose.SIGN1_MAX + 1)
    if len(content) > cose.SIGN1_MAX:
        raise UsageError("too large for a seal", where=str(path), reason="bad-seal")
    return content


def _closed(manifest: messages.Manifest, wait: bool) -> None:
    """Return once the closing time has passed; raises TooEarly when it has not and nobody wants to wait."""
    while (left := manifest.closes - now().timestamp()) > 0:
        if not wait:
            raise TooEarly(
                f"bids close at {moment_text(manifest.closes)}", hint="open after it, or use --wait"
            )
        err().print(f"waiting {left:.0f} s for the closing time", markup=False)
        time.sleep(min(left, 60.0))


@contextlib.contextmanager
def _progress(parts: int) -> Iterator[Progress]:
    """A display of bytes sent and of the enclave's stages, on stderr."""
    with byte_progress() as display:
        task = display.add_task(f"manifest and {parts} bid files", total=None)

        def report(stage: str, size: int) -> None:
            display.update(task, description=stage, advance=size)

        yield report
