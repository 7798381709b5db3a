"""Options that several verbs share, here and in ``verify`` and ``nitro-local``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.parser import NamedPath
from coattest.shell import Decorator, judged_folder, option_group
from coattest_build.containers.registry.reference import SCHEME, parse_reference
from coattest_build.formats.eif import ImageError

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = NamedPath(file_okay=False, path_type=Path)

DOWNLOADS = "Downloads"
"""Heading of these options in the help."""

source_option: Decorator = judged_folder(
    click.option("--source", type=FOLDER, default=Path(), help="Source tree (default: the current folder).")
)
cache_option: Decorator = option_group(
    click.option(
        "--cache", type=FOLDER, help="Cache folder (default: COATTEST_CACHE, else ~/.cache/coattest)."
    ),
    heading=DOWNLOADS,
)
mirror_option: Decorator = option_group(
    click.option("--mirror", help="Debian mirror (default: COATTEST_DEBIAN_MIRROR, else apt's)."),
    heading=DOWNLOADS,
)
jobs_option: Decorator = click.option(
    "--jobs", type=click.IntRange(min=1), help="Compile jobs (default: one per processor)."
)
fresh_kernel_option: Decorator = click.option(
    "--fresh-kernel", is_flag=True, help="Compile the kernel even when the cache has it."
)


class _ImagePlace(click.Path):
    """A file or folder that exists, or an image of a registry."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A Path or a Reference."""
        if isinstance(value, str) and value.startswith(SCHEME):
            return parse_reference(value)
        return super().convert(value, param, ctx)


IMAGE_PLACE = _ImagePlace()
container_option: Decorator = click.option(
    "--from",
    "container",
    type=IMAGE_PLACE,
    help="The container image of [container]: an OCI layout, an archive of docker save or skopeo, or "
    "docker://HOST/NAME@sha256:...",
)


@contextlib.contextmanager
def given_image(image: Path) -> Iterator[None]:
    """Within the block, a file that the caller named and that is no image is a UsageError: exit 2."""
    try:
        yield
    except ImageError as error:
        where = error.where or str(image)
        raise UsageError(error.what, where=where, hint=error.hint, code=error.code) from None
