"""nitro-local qemu-build: a QEMU that can boot enclave images."""

from __future__ import annotations

from pathlib import Path

import click

from coattest_build.cache import Cache, cache_folder
from coattest_build.progress import Terminal
from coattest_build.shell import emit_json, out
from coattest_local import qemu_build as builder


@click.command("qemu-build")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="The cache folder.")
@click.option("--mirror", help="A Debian mirror; by default apt's.")
@click.option(
    "--current", "use_current", is_flag=True, help="The mirror's versions of today, not the pinned."
)
@click.option("--jobs", type=click.IntRange(1), help="Compile jobs; by default one per processor.")
@click.option("--fresh", is_flag=True, help="Compile even when it was done before.")
@click.option("--json", "as_json", is_flag=True, help="Print what was built on stdout.")
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
