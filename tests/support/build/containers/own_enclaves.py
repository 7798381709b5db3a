"""Image files of style coattest around a kernel that nobody compiled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coattest.network import NO_NETWORK, Network
from coattest_build import kernel as kernels
from coattest_build.containers.image import open_container_image
from coattest_build.containers.own.imagefile import write_own_image
from coattest_build.containers.own.profile import read_profile
from coattest_build.containers.own.tree import own_tree
from coattest_build.image import CONTAINER
from coattest_build.inputs.cache import Cache
from support.build.container_images import CMD, Entry, saved, tar


def fill(cache: Path, kernel: bytes = b"kernel" * 100) -> Path:
    """Put a kernel where the cache would have the compiled one; the cache."""
    profile = read_profile()
    digest = profile.digest()
    config = "".join(
        f"CONFIG_{name}={value}\n" if value == "y" else f"# CONFIG_{name} is not set\n"
        for name, value in kernels.PROFILE_OPTIONS[CONTAINER].items()
    ).encode()
    place = cache / "kernel" / digest
    place.mkdir(parents=True)
    files = {"bzImage": kernel, "init": b"init" * 50, "config": config}
    for name, data in files.items():
        (place / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (place / "outputs.json").write_text(json.dumps(digests))
    return cache


def own_enclave(
    target: Path,
    cache: Path,
    entries: Sequence[Entry] = (),
    config: Mapping[str, Any] = CMD,
    *,
    nsm: bool = False,
    network: Network = NO_NETWORK,
) -> Path:
    """Write the image file of a container image of one layer; the file."""
    source, profile = target.with_suffix(".tar"), read_profile()
    source.write_bytes(saved([tar(*entries)], config))
    compiled = kernels.cached(profile, Cache(cache))
    assert compiled is not None
    with open_container_image(source) as opened:
        write_own_image(target, profile, compiled, own_tree(opened, nsm=nsm, network=network))
    return target
