"""`eif lock`: pin every input of the image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import click

from coattest.errors import Rejected, UsageError
from coattest.extras import need_extra
from coattest.files import Folder, make_folder, read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.progress import Terminal
from coattest.shell import err, json_option, out
from coattest_build import image
from coattest_build.cli.container_options import image_options, opened_image
from coattest_build.cli.options import container_option, mirror_option, source_option
from coattest_build.containers.own.starting import check_starts
from coattest_build.containers.own.tree import own_tree
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.inputs import apt, locker
from coattest_build.inputs import lock as locks
from coattest_build.inputs.pinned_image import pin_of


@click.command("lock")
@source_option
@mirror_option
@click.option("--keep", is_flag=True, help="Keep the pinned versions and add new packages only.")
@click.option("--check", is_flag=True, help="Write nothing, and exit 1 when a pin would move.")
@click.option(
    "--runtime-depends",
    is_flag=True,
    help="First add to image.toml what the runtime packages depend on.",
)
@container_option
@image_options
@json_option
def lock_command(
    *,
    source: Path,
    mirror: str | None,
    keep: bool,
    check: bool,
    runtime_depends: bool,
    container: ImagePlace | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Pin every input of the image in build/image.lock.

    Pins the newest version of each package that the mirror has, or with --keep only of those that are not
    pinned yet, and prints the pins that moved. Where image.toml names a file of wanted Python packages, also
    writes the requirements file, with every version and hash. With --from, pins that container image by its
    content; without, the pinned one stays.
    """
    if check and runtime_depends:
        raise UsageError("--check writes nothing, and --runtime-depends writes image.toml")
    spec = image.load_spec(source)
    image_pin = _container_pin(spec, container, **given)
    if spec.wheels and spec.wheels.wanted:
        need_extra("build")
        _check_way(source, spec.wheels.requirements)
    path = source / image.LOCK_FILE
    previous: locks.Lock | None = None
    try:
        previous, _ = locks.load_lock(source)
    except locks.BadLock as error:
        err().print(f"not compared with an earlier lock: {error.what}")
    image_pin = image_pin or _earlier_container(spec, previous)
    reporter = Terminal()
    bases = apt.mirrors(spec.suites, spec.component, mirror=mirror)
    archive, date = locker.read_archive(spec, bases[0], reporter)
    if runtime_depends:
        text = read_whole(source / image.IMAGE_FILE, image.MAX_FILE).decode()
        changed = locker.with_dependencies(text, image.parse_spec(text), archive)
        spec = image.parse_spec(changed)
        write_atomic(source / image.IMAGE_FILE, changed.encode())
    made = locker.make_lock(spec, source, (archive, date), previous, reporter, keep=keep, container=image_pin)
    moves = locker.moves_between(previous, made)
    if not check:
        make_folder(path.parent)
        if spec.wheels and spec.wheels.wanted:
            pinned = locker.requirements_text(source, spec.wheels, made)
            write_atomic(source / spec.wheels.requirements, pinned.encode())
        write_atomic(path, made.render().encode())
    count = len(made.packages) + len(made.wheels) + bool(made.container)
    if as_json:
        emit_json(
            {
                "lock": str(path),
                "inputs": count,
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
                    "different use or bytes" if move.before == move.after else move.after or "-",
                )
                for move in moves
            ],
        )
    else:
        out().print(f"{path}: {count} inputs, nothing moved")
    return 1 if check and moves else 0


def _container_pin(
    spec: image.ImageSpec, container: ImagePlace | None, **given: Any
) -> locks.LockedContainer | None:
    if container is None:
        refuse_ignored(("ref", "platform", "max_size"), "without --from")
        return None
    if not spec.from_container:
        raise UsageError("image.toml has no [container]: --from would do nothing", where=image.IMAGE_FILE)
    with opened_image(container, **given) as opened:
        tree = own_tree(opened)  # refused now rather than by everybody's build
        tree.plan.encode()
        check_starts(tree)
        return pin_of(opened)


def _earlier_container(spec: image.ImageSpec, previous: locks.Lock | None) -> locks.LockedContainer | None:
    """The container image that stays pinned. Raises UsageError, before any index is read, where none is."""
    if not spec.from_container:
        return None
    if previous is None or previous.container is None:
        raise UsageError(
            "no container image is pinned yet", where=image.IMAGE_FILE, hint=locks.NAME_CONTAINER
        )
    return previous.container


def _check_way(source: Path, name: str) -> None:
    """Raise UsageError when a folder on the way to a file of the tree is a link: it may lead anywhere."""
    above = PurePosixPath(name).parent.as_posix()
    try:
        with Folder(source) as tree:
            tree.folder(above).close()
    except Rejected as error:
        if error.code != "absent":
            raise UsageError(
                "a link or file is on the way to it",
                where=name,
                hint="name a plain path",
                code="not-a-folder",
            ) from None
