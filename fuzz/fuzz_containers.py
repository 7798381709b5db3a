"""Coverage-guided fuzzing of the readers of container images: our own errors, and nothing outside the layer.

    python fuzz/fuzz_containers.py [--seconds 60] [CORPUS]

The first byte says who reads the rest: the reader of tar, of compressed layers, of the documents, or of the
file that says what runs. Needs atheris; zstd in Python before 3.14 needs backports.zstd.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("build", "common", "tests")]

import atheris

with atheris.instrument_imports(include=["coattest_build.containers", "coattest.strictjson"]):
    from coattest_build.containers.layertar import read_layer
    from coattest_build.containers.manifests import read_config, read_index, read_manifest, read_saved
    from coattest_build.containers.own.plan import RunPlan, decode_plan
    from coattest_build.containers.sources import HeldBytes, unpacked_blocks

from libfuzzer import fuzz

from coattest.errors import CoattestError
from coattest_build.containers.own.users import ContainerUser
from support.build.container_images import Layout, config_of

MOST = 1 << 20


def layer(data: bytes) -> None:
    """Every piece of a file lies in the layer, and they are its size."""
    for found in read_layer(HeldBytes(data), most=1000):
        assert all(place < 0 or place + size <= len(data) for place, size in found.content)
        assert sum(size for _, size in found.content) == found.size


def packed(data: bytes) -> None:
    """No more comes out than the limit."""
    assert sum(map(len, unpacked_blocks(HeldBytes(data), MOST, "x"))) <= MOST


def documents(data: bytes) -> None:
    """Each reader on its own."""
    for read in (read_index, read_manifest, read_saved, read_config):
        with contextlib.suppress(CoattestError):
            read(data, "x")


def plan(data: bytes) -> None:
    """One file for one meaning."""
    assert decode_plan(data).encode() == data


READERS: tuple[Callable[[bytes], None], ...] = (layer, packed, documents, plan)


def one(data: bytes) -> None:
    """One input: any exception but ours is a finding."""
    if data:
        with contextlib.suppress(CoattestError):
            READERS[data[0] % len(READERS)](data[1:])


def main() -> None:
    """Seeds: what each reader takes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for name in ("d/x", "n" * 120):
            writer.addfile(tarfile.TarInfo(name))
    raw, layout = archive.getvalue()[:4096], Layout()
    layout.index(layout.nested(layout.manifest([raw])))
    run = RunPlan(("/a", "b"), ("A=1",), ContainerUser(1, 2, (2, 3), ""), "/d", True)
    seeds = {"tar": b"\0" + raw, "gzip": b"\1" + gzip.compress(raw, mtime=0), "plan": b"\3" + run.encode()}
    # RFC 8878: a skippable frame, and one with a raw block.
    seeds["zstd"] = b"\1\x50\x2a\x4d\x18\1\0\0\0a\x28\xb5\x2f\xfd\x20\3\x19\0\0abc"
    seeds["config"] = b"\2" + config_of([raw])
    seeds |= {name.rpartition("/")[2][:16]: b"\2" + data for name, data in layout.files.items()}
    fuzz(one, seeds, (__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    main()
