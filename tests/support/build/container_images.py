"""Container images made in memory: layers, archives of ``docker save``, OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coattest_build.containers.application import (
    ContainerTree,
    application_ramdisk,
    command_and_environment,
    container_tree,
)
from coattest_build.containers.image import Choice, open_container_image

NOON = 1_600_000_000
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
CMD: Mapping[str, Any] = {"Cmd": ["/a"]}

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **fields: Any) -> Entry:
    """A regular file unless ``type`` says otherwise; fields are TarInfo's."""
    info = tarfile.TarInfo(name)
    info.mtime, info.size = NOON, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def folder(name: str, **fields: Any) -> Entry:
    """A folder of mode 755."""
    return entry(name, **{"type": tarfile.DIRTYPE, "mode": 0o755, **fields})


def symlink(name: str, target: str, **fields: Any) -> Entry:
    """A symbolic link."""
    return entry(name, **{"type": tarfile.SYMTYPE, "linkname": target, "mode": 0o777, **fields})


def hard_link(name: str, target: str, **fields: Any) -> Entry:
    """A hard link."""
    return entry(name, **{"type": tarfile.LNKTYPE, "linkname": target, **fields})


def tar(*entries: Entry, **options: Any) -> bytes:
    """An archive; options are TarFile's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **{"format": tarfile.PAX_FORMAT, **options}) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()


def config_of(layers: Sequence[bytes], run: Mapping[str, Any] | None = CMD, **fields: Any) -> bytes:
    """A configuration of uncompressed layers."""
    return json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in layers]},
            **fields,
        }
    ).encode()


def saved(
    layers: Sequence[bytes],
    run: Mapping[str, Any] | None = CMD,
    *,
    config: bytes | None = None,
    tags: Sequence[str] = ("x:latest",),
) -> bytes:
    """An archive of an old ``docker save``."""
    document = config or config_of(layers, run)
    names = [f"{number}-{sha256(layer)}/layer.tar" for number, layer in enumerate(layers)]
    manifest = [{"Config": f"{sha256(document)}.json", "RepoTags": list(tags), "Layers": names}]
    return tar(
        *(entry(name, layer) for name, layer in zip(names, layers, strict=True)),
        entry(f"{sha256(document)}.json", document),
        entry("manifest.json", json.dumps(manifest).encode()),
    )


class Layout:
    """The files of an OCI layout; every document is put under its digest."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(self, data: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
        """Put a blob there; its descriptor."""
        self.files[f"blobs/sha256/{sha256(data)}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data), **fields}

    def manifest(
        self,
        layers: Sequence[bytes],
        run: Mapping[str, Any] | None = CMD,
        *,
        pack: Callable[[bytes], bytes] = lambda data: gzip.compress(data, mtime=0),
        kind: str = LAYER + "+gzip",
        config: bytes | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Put an image there; the descriptor of its manifest."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(config or config_of(layers, run), CONFIG),
            "layers": [self.blob(pack(layer), kind) for layer in layers],
        }
        return self.blob(json.dumps(document).encode(), MANIFEST, **fields)

    def nested(self, *descriptors: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Put an index there; its descriptor."""
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(descriptors)}
        return self.blob(json.dumps(document).encode(), INDEX, **fields)

    def index(self, *descriptors: dict[str, Any]) -> Layout:
        """Set index.json."""
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": list(descriptors)}).encode()
        return self

    def archive(self) -> bytes:
        """The layout as a tar."""
        return tar(*(entry(name, data) for name, data in self.files.items()))

    def write(self, path: Path) -> Path:
        """The layout as a folder."""
        for name, data in self.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


@contextmanager
def tree_of(path: Path, choice: Choice | None = None, **options: Any) -> Iterator[ContainerTree]:
    """An image with its layers applied."""
    with open_container_image(path, choice, **options) as image:
        yield container_tree(image)


def ramdisk_of(
    path: Path,
    choice: Choice | None = None,
    *,
    times: Mapping[int, int] | None = None,
    docker: int | None = None,
    store: str = "overlay2",
    command: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
) -> bytes:
    """The application ramdisk of the image at a path."""
    with tree_of(path, choice) as tree:
        files = command_and_environment(tree.image, docker=docker, command=command, environment=environment)
        return b"".join(application_ramdisk(tree, *files, times=times or {}, store=store))


def listed(ramdisk: bytes) -> dict[str, dict[str, Any]]:
    """The entries of a newc archive by name, a later one in place of an earlier: read by code of its own."""
    found: dict[str, dict[str, Any]] = {}
    at = 0
    while True:
        assert ramdisk[at : at + 6] == b"070701"
        fields = [int(ramdisk[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = ramdisk[at + 110 : at + 109 + fields[11]].decode("utf-8", "surrogateescape")
        data = (at + 110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = {
            "mode": fields[1],
            "owner": (fields[2], fields[3]),
            "mtime": fields[5],
            "content": ramdisk[data : data + fields[6]],
            "device": (fields[9], fields[10]),
        }
        at = (data + fields[6] + 3) // 4 * 4
