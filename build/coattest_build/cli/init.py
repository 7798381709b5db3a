"""`eif init`: a working source tree for another enclave."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.shell import json_option, out
from coattest_build.image import KERNEL_PROFILES
from coattest_build.starts import KERNELS, write_start

FIRST = {
    "python": ("eif lock --keep",),
    "node": ("eif lock --keep",),
    "static": (
        "(cd enclave/source && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags=-buildid="
        " -o ../program .)",
        "eif lock --keep",
    ),
    "container": ("eif lock --keep --from IMAGE",),
}
"""What is typed first in a tree of each kind."""
CONTAINER_NEXT = ("eif build --out out --from IMAGE",)
IMAGE = (
    "IMAGE is a container image of yours: an OCI layout, an archive of docker save or skopeo, or",
    "docker://HOST/NAME@sha256:... Name a file as that folder sees it. Later builds take it from the cache.",
)
NEXT = (
    "eif build --out out",
    "nitro-local run-enclave out/image.local.eif --directory run --port 7000 --detach"
    " --role-arn arn:aws:iam::111122223333:role/parent --instance-id i-1234567890abcdef0",
)


@click.command("init")
@click.argument("kind", type=click.Choice(tuple(KERNELS)))
@click.argument("folder", metavar="DIR", type=NEW_FOLDER)
@click.option(
    "--kernel",
    type=click.Choice(KERNEL_PROFILES),
    help="The kernel's profile (default: container for node and container, else minimal).",
)
@json_option
def init_command(*, kind: str, folder: Path, kernel: str | None, as_json: bool) -> None:
    """Write a working source tree for another enclave into DIR, which is new or empty.

    It has everything that an image is made from: build/image.toml, kernel and init (coattest's own, with its
    pins), and below enclave/ a small HTTP service on vsock whose answers an attestation document covers; for
    container the service is that of a container image. Nothing in it refers to this installation of coattest.
    The kernel profile container is for ordinary programs: TCP on 127.0.0.1, a user, a working folder, PATH,
    files that can be written.
    """
    written = write_start(kind, folder, kernel)
    following = (
        f"cd {shlex.quote(str(folder))}",
        *FIRST[kind],
        *(CONTAINER_NEXT if kind == "container" else NEXT),
    )
    if as_json:
        emit_json({"folder": str(folder), "files": list(written), "next": list(following)})
        return
    out().print(f"{folder}: {len(written)} files for an enclave ({kind})")
    out().print("type next:")
    for line in following:
        out().print(f"  {line}")
    if kind == "container":
        for line in IMAGE:
            out().print(line)
