"""Options that the verbs of `eif container` share, and the image that they open."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

from coattest.errors import UsageError
from coattest.shell import Decorator, option_group
from coattest_build.containers.application import ContainerTree, container_tree
from coattest_build.containers.image import DEFAULT_SIZE, Choice, open_container_image
from coattest_build.containers.manifests import Platform

_PLATFORM = re.compile(r"[a-z0-9]{1,16}(/[a-z0-9]{1,16}){1,2}")
_TIME = re.compile(r"(0|[1-9][0-9]{0,2})=(0|[1-9][0-9]{0,9})")


def _platform(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Platform | None:
    if value is None:
        return None
    if not _PLATFORM.fullmatch(value):
        raise UsageError(f"--platform {value[:40]!r}", hint="such as linux/amd64 or linux/arm64/v8")
    return Platform(*value.split("/"))


def parse_times(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[int, int]:
    """The values of --time: seconds by clock. Raises UsageError."""
    found: dict[int, int] = {}
    for value in values:
        match = _TIME.fullmatch(value)
        if match is None or int(match[2]) >= 1 << 32 or int(match[1]) in found:
            raise UsageError(
                f"--time {value[:40]!r}",
                hint="a layer's number, 0 for the container, and seconds since 1970, each once: 3=1700000000",
            )
        found[int(match[1])] = int(match[2])
    return found


image_options: Decorator = option_group(
    click.option("--ref", metavar="NAME", help="Which image of several: its reference or tag."),
    click.option(
        "--platform", callback=_platform, metavar="OS/ARCH", help="Which image of several: its platform."
    ),
    click.option(
        "--max-size",
        type=click.IntRange(min=1),
        default=DEFAULT_SIZE,
        show_default=True,
        metavar="BYTES",
        help="Bytes that the image may unpack to.",
    ),
    heading="Which image",
)
IMAGE = click.argument("image", type=click.Path(exists=True, path_type=Path))


@contextlib.contextmanager
def opened_tree(
    image: Path, ref: str | None, platform: Platform | None, max_size: int
) -> Iterator[ContainerTree]:
    """The image of the options, its layers applied. Raises as ``open_container_image``."""
    with open_container_image(image, Choice(ref, platform), max_size=max_size) as opened:
        yield container_tree(opened)
