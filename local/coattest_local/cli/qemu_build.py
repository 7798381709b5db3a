"""nitro-local qemu-build: a QEMU that can boot enclave images."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.progress import Terminal
from coattest.shell import json_option, out
from coattest_build.cli.options import cache_option, jobs_option, mirror_option
from coattest_build.inputs.cache import Cache, cache_folder
from coattest_local.qemu import build as builder


@click.command("qemu-build")
@cache_option
@mirror_option
@click.option(
    "--current", "use_current", is_flag=True, help="The mirror's versions of today, not the pinned."
)
@jobs_option
@click.option("--fresh", is_flag=True, help="Compile even when it was done before.")
@json_option
def qemu_build(
    *, cache: Path | None, mirror: str | None, use_current: bool, jobs: int | None, fresh: bool, as_json: bool
) -> None:
    """Build QEMU with the nitro-enclave machine from Debian's source, into the cache."""
    built = builder.build(
        Cache(cache_folder(cache)),
        Terminal(),
        mirror=mirror,
        use_current=use_current,
        jobs=jobs,
        fresh=fresh,
    )
    if as_json:
        emit_json(
            {
                "qemu": str(built.qemu),
                "vhost_device_vsock": str(built.vsock),
                "source": built.source,
                "compiled": built.compiled,
            }
        )
    else:
        out().print(
            f"{built.source}: {built.qemu}{'' if built.compiled else ' (was built before)'}", markup=False
        )
