"""``nitro-local demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.shell import err, json_option, judged_folder, needs_extra
from coattest_local.demo.play import play


@needs_extra("local")
@click.command()
@judged_folder(
    click.option(
        "--source",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=Path(),
        help="The checkout (default: this folder).",
    )
)
@click.option("--independent", is_flag=True, help="Every party compiles the kernel itself.")
@click.option("--qemu", is_flag=True, help="The enclave boots for real, in QEMU's nitro-enclave machine.")
@click.option(
    "--keep",
    type=NEW_FOLDER,
    help="Keep everything that is made, in this new or empty folder.",
)
@json_option
def demo_command(*, source: Path, independent: bool, qemu: bool, keep: Path | None, as_json: bool) -> None:
    """Run the whole chain on this machine: build, rebuild, sign, decide, deploy, auction, attacks.

    What AWS provides is simulated: this shows how the parts fit, and protects nothing.
    """
    if keep and keep.exists() and any(keep.iterdir()):
        raise UsageError("the folder is not empty", where=str(keep), hint="name a new one")
    started = time.monotonic()
    stage = play(source, err(), independent=independent, qemu=qemu, keep=keep)
    seconds = time.monotonic() - started
    if as_json:
        emit_json({"steps": stage.steps, "refused": stage.refusals, "seconds": round(seconds, 1)})
    err().print(
        f"\n[bold green]done[/bold green]: winners buyer-2, buyer-1, tie; receipts verified; "
        f"{stage.refusals} attacks refused; {seconds:.0f} s",
        markup=True,
    )
