"""`eif lock`: pin every input of the image."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.files import make_folder, write_atomic
from coattest.jsontext import emit_json
from coattest.progress import Terminal
from coattest.shell import err, json_option, out
from coattest_build import image
from coattest_build.cli.options import mirror_option, source_option
from coattest_build.inputs import apt, locker
from coattest_build.inputs import lock as locks


@click.command("lock")
@source_option
@mirror_option
@click.option("--keep", is_flag=True, help="Keep the pinned versions and add new packages only.")
@click.option("--check", is_flag=True, help="Write nothing, and exit 1 when a pin would move.")
@json_option
def lock_command(*, source: Path, mirror: str | None, keep: bool, check: bool, as_json: bool) -> int:
    """Pin every input of the image in build/image.lock.

    Pins the newest version of each package that the mirror has, or with --keep only of those that are not
    pinned yet, and prints the pins that moved.
    """
    spec = image.load_spec(source)
    path = source / image.LOCK_FILE
    previous: locks.Lock | None = None
    try:
        previous, _ = locks.load_lock(source)
    except locks.BadLock as error:
        err().print(f"not compared with an earlier lock: {error.what}", markup=False)
    reporter = Terminal()
    bases = apt.mirrors(spec.suites, spec.component, mirror=mirror)
    made = locker.make_lock(spec, source, bases, previous, reporter, keep=keep)
    moves = locker.moves_between(previous, made)
    if not check:
        make_folder(path.parent)
        write_atomic(path, made.render().encode())
    if as_json:
        emit_json(
            {
                "lock": str(path),
                "inputs": len(made.packages) + len(made.wheels),
                "source_date_epoch": made.source_date_epoch,
                "moved": [{"name": m.name, "before": m.before, "after": m.after} for m in moves],
            }
        )
    elif moves:
        out().show_rows(
            ("input", "before", "after"),
            [
                (
                    move.name,
                    move.before or "-",
                    f"{move.after or '-'}{' (different use or bytes)' if move.before == move.after else ''}",
                )
                for move in moves
            ],
        )
    else:
        out().print(f"{path}: {len(made.packages) + len(made.wheels)} inputs, nothing moved")
    return 1 if check and moves else 0
