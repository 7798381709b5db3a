"""Options that the verbs of `eif container` share, and the image that they open."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.network import PROXY_URL, parse_network
from coattest.parser import refuse_ignored
from coattest.shell import Decorator, err, option_group
from coattest_build.cli.options import IMAGE_PLACE
from coattest_build.containers.application import (
    ContainerTree,
    application_ramdisk,
    command_and_environment,
    container_tree,
)
from coattest_build.containers.daemon import STORES
from coattest_build.containers.image import DEFAULT_SIZE, Choice, OpenedImage, open_container_image
from coattest_build.containers.manifests import Platform
from coattest_build.containers.own.starting import check_starts, nitro_cli_lacks
from coattest_build.containers.own.tree import OwnTree, own_tree
from coattest_build.containers.registry.reference import ImagePlace

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
IMAGE = click.argument("image", type=IMAGE_PLACE)


# Each of these takes what its group of options gives a command, and leaves alone what other groups give.


def opened_image(
    image: ImagePlace, *, ref: str | None, platform: Platform | None, max_size: int, **_: Any
) -> contextlib.AbstractContextManager[OpenedImage]:
    """The image of ``image_options``. Raises as ``open_container_image``."""
    return open_container_image(image, Choice(ref, platform), max_size=max_size)


@contextlib.contextmanager
def opened_tree(image: ImagePlace, **given: Any) -> Iterator[ContainerTree]:
    """The image of ``image_options``, its layers applied as Docker does. Raises as ``opened_image``."""
    with opened_image(image, **given) as opened:
        yield container_tree(opened)


def opened_own(
    opened: OpenedImage, *, nsm: bool, listen: Sequence[str], connect: Sequence[str], **_: Any
) -> OwnTree:
    """What style coattest makes of an image with ``nsm_option`` and ``network_options``.

    Raises ContainerError, also where the image does not have the program that it names.
    """
    tree = own_tree(opened, nsm=nsm, network=parse_network(listen, connect))
    check_starts(tree)
    return tree


def note_start(tree: ContainerTree, docker: str | None = None) -> None:
    """Say on stderr where AWS's init would not start the program of an image."""
    lacks = nitro_cli_lacks(tree, int(docker) if docker else None)
    if lacks is not None:
        err().print(f"note: in an enclave of nitro-cli nothing would start: {lacks}", style="yellow")


STYLES = click.Choice(["coattest", "nitro-cli"])
style_option: Decorator = click.option(
    "--style",
    type=STYLES,
    required=True,
    help="Who runs it: coattest's kernel and init, or those of nitro-cli 1.3.4 to 1.5.0.",
)
blobs_option: Decorator = click.option(
    "--blobs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="nitro-cli's folder of kernel, command line, init and driver (/usr/share/nitro_enclaves/blobs).",
)
nsm_option: Decorator = click.option(
    "--nsm", is_flag=True, help="Give the program /dev/nsm (style coattest; nitro-cli always does)."
)
network_options: Decorator = option_group(
    click.option(
        "--listen",
        multiple=True,
        metavar="VSOCK:TCP",
        help="A vsock port, and the port of 127.0.0.1 where its connections go.",
    ),
    click.option(
        "--connect",
        multiple=True,
        metavar="HOST:PORT",
        help=f"What the program may reach, by CONNECT to {PROXY_URL}.",
    ),
    heading="Network (style coattest)",
)
decided_options: Decorator = option_group(
    click.option(
        "--time",
        "times",
        multiple=True,
        callback=parse_times,
        metavar="N=SECONDS",
        help="When layer N was extracted (0: when the container was made), where folders have that time.",
    ),
    click.option(
        "--store",
        type=click.Choice(STORES),
        help="Where that Docker kept layers (with --time; default: overlay2).",
    ),
    click.option(
        "--docker",
        type=click.Choice(["20", "29"]),
        help="Whose `docker inspect` nitro-cli asked, for an image with an empty Cmd.",
    ),
    heading="What Docker decides",
)


def decided_blocks(
    tree: ContainerTree,
    *,
    times: dict[int, int],
    store: str | None,
    docker: str | None,
    command: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
    **_: Any,
) -> Iterator[bytes]:
    """The application ramdisk as ``decided_options`` decide it.

    Raises UsageError for one of them that would do nothing; EnvironmentFailure and ContainerError as
    ``application_ramdisk``.
    """
    config = tree.image.config
    if config is None:
        refuse_ignored(("docker",), "for a file system, which has no Cmd")
        if not command:
            raise UsageError("a file system does not say what runs", hint="give it with --cmd, and --env")
    else:
        refuse_ignored(("command", "environment"), "for an image with a configuration")
        if config.cmd != ():
            refuse_ignored(("docker",), "for an image whose Cmd is not empty")
    unused = sorted(set(times) - {item.layer for item in tree.undecided})
    if unused:
        raise UsageError(f"--time {unused[0]} would do nothing: that decides no folder", hint="leave it out")
    if not tree.undecided:
        refuse_ignored(("store",), "for an image that decides everything")
    files = command_and_environment(
        tree.image, docker=int(docker) if docker else None, command=command, environment=environment
    )
    return application_ramdisk(tree, *files, times=times, store=store or STORES[0])


def note_decided(tree: ContainerTree, store: str | None) -> None:
    """Say on stderr that the bytes are those of one Docker, where the image does not decide them."""
    if tree.undecided:
        err().print(
            f"note: {len(tree.undecided)} folders are as {store or STORES[0]} makes them at the times given; "
            "other stores of Docker give some of them another mode or owner",
            style="yellow",
        )
