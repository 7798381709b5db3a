"""Opens a container image: which one it is, its configuration, its layers, all checked by digest.

An OCI layout (a folder or an archive), an archive of ``docker save`` of any age, or one of ``docker export``,
which is a file system and has no configuration; or an image of a registry.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coattest.strictjson import Fields, parse
from coattest_build.containers.errors import (
    ContainerError,
    ambiguous,
    beyond_limit,
    malformed,
    naming,
    not_read,
    path_text,
    two_readings,
    wrong_digest,
)
from coattest_build.containers.files import ImageFiles, open_files, read_file
from coattest_build.containers.layers import MAX_ENTRIES
from coattest_build.containers.layertar import read_layer
from coattest_build.containers.manifests import (
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    MAX_MANIFESTS,
    ContainerConfig,
    Descriptor,
    ManifestFile,
    Platform,
    SavedImage,
    read_config,
    read_index,
    read_manifest,
    read_saved,
)
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.containers.sources import (
    FilePart,
    Positioned,
    Spool,
    compression_of,
    plain_blocks,
    unpacked_blocks,
)
from coattest_build.formats.hashing import sha256_of

DEFAULT_SIZE = 2 << 30
"""Bytes that an image may unpack to unless --max-size allows more: an enclave holds it in memory."""
MAX_NESTED = 4
"""Indexes inside each other."""
MAX_WAYS = 4 * MAX_MANIFESTS
"""Ways to an image or index by other references: indexes of 1024 names for one would have billions."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which image of several is meant: a reference or tag, a platform; None for the only one.

    ``config`` is the SHA-256 (hex) of its configuration.
    """

    ref: str | None = None
    platform: Platform | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """A layer: the SHA-256 of its uncompressed content (``diff_id``), how it came, and its content."""

    diff_id: str
    compression: str | None
    content: FilePart


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image of which everything was checked by digest.

    ``form`` is ``oci``, ``docker-save`` or ``docker-export``. ``manifest`` and ``config_sha256`` are SHA-256
    in hex, None where the form has none; ``config`` is None for an export, whose one layer is all of it.
    ``document`` is the configuration as it came, ``max_size`` how many bytes its files may have.
    """

    form: str
    names: tuple[str, ...]
    manifest: str | None
    config_sha256: str | None
    config: ContainerConfig | None
    layers: tuple[ImageLayer, ...]
    document: bytes = b""
    max_size: int = DEFAULT_SIZE


@dataclass(frozen=True, slots=True)
class _Found:
    """What was chosen: names, manifest's digest, the configuration's bytes, names of the layers' files."""

    form: str
    names: tuple[str, ...]
    manifest: str | None
    config: bytes
    layers: tuple[tuple[str, Descriptor | None], ...]


@contextlib.contextmanager
def open_container_image(
    path: ImagePlace, choice: Choice | None = None, *, max_size: int = DEFAULT_SIZE
) -> Iterator[OpenedImage]:
    """The image at ``path``, its layers decompressed to a private file until the end.

    Raises ContainerError; FoundFalse (``container-digest``) where content is not what its digest says;
    EnvironmentFailure where something is missing here.
    """
    wanted = choice or Choice()
    with contextlib.ExitStack() as stack:
        with naming(str(path)):
            spool = stack.enter_context(Spool(max_size))
            found = stack.enter_context(open_files(path, spool))
            if isinstance(found, FilePart):
                opened = _export(found, wanted, spool)
            else:
                opened = _read(found, wanted, spool)
            opened = replace(opened, max_size=max_size)
        with naming(str(path), ContainerError):  # others are not about the image
            yield opened


def _export(archive: FilePart, wanted: Choice, spool: Spool) -> OpenedImage:
    if wanted.ref or wanted.platform:
        raise ContainerError("is a file system and not an image: --ref and --platform would do nothing")
    content, digest = spool.add(unpacked_blocks(archive, spool.left(), "file system"), "file system")
    for _ in read_layer(content, most=4 * MAX_ENTRIES):
        pass
    return OpenedImage("docker-export", (), None, None, None, (ImageLayer(digest, None, content),))


def _read(files: ImageFiles, wanted: Choice, spool: Spool) -> OpenedImage:
    found = _from_layout(files, wanted) if files.has("index.json") else _from_saved(files, wanted)
    config = read_config(found.config, "config")
    if wanted.platform is not None and not config.platform.is_for(wanted.platform):
        raise ambiguous(f"the image is for {config.platform}, not {wanted.platform}")
    if len(config.diff_ids) != len(found.layers):
        raise ContainerError(
            f"{len(found.layers)} layers, but the configuration has {len(config.diff_ids)} diff_ids"
        )
    layers = tuple(
        _layer(files, name, descriptor, diff_id, spool, number=number)
        for number, ((name, descriptor), diff_id) in enumerate(
            zip(found.layers, config.diff_ids, strict=True), 1
        )
    )
    digest = _sha256(found.config)
    return OpenedImage(found.form, found.names, found.manifest, digest, config, layers, found.config)


def _layer(
    files: ImageFiles, name: str, descriptor: Descriptor | None, diff_id: str, spool: Spool, *, number: int
) -> ImageLayer:
    where = f"layer {number}"
    with files.opened(name) as source:
        if descriptor is not None:
            _check_blob(source, descriptor, where)
        method = compression_of(source)
        content, found = spool.add(unpacked_blocks(source, spool.left(), where), where)
    if found != diff_id:
        raise wrong_digest(f"its content has SHA-256 {found}, the configuration says {diff_id}", where=where)
    return ImageLayer(diff_id, method, content)


def _check_blob(source: Positioned, descriptor: Descriptor, where: str) -> None:
    if source.size != descriptor.size:
        raise wrong_digest(f"{source.size} bytes, its descriptor says {descriptor.size}", where=where)
    found = sha256_of(plain_blocks(source))
    if found != descriptor.sha256:
        raise wrong_digest(f"its SHA-256 is {found}, its descriptor says {descriptor.sha256}", where=where)


def _blob(files: ImageFiles, descriptor: Descriptor, where: str) -> bytes:
    """A document by its descriptor. Raises ContainerError, FoundFalse."""
    data = read_file(files, f"blobs/sha256/{descriptor.sha256}", MAX_DOCUMENT)
    if len(data) != descriptor.size or _sha256(data) != descriptor.sha256:
        raise wrong_digest("is not what its descriptor says", where=where)
    return data


# -------------------------------------------------------------------------------- OCI layouts


def _from_layout(files: ImageFiles, wanted: Choice) -> _Found:
    _check_layout(files)
    leaves = _leaves(files, read_file(files, "index.json", MAX_DOCUMENT))
    if wanted.ref is not None:
        leaves = [pair for pair in leaves if wanted.ref in pair[1]]
    if wanted.platform is not None:
        leaves = [
            pair for pair in leaves if pair[0].platform is None or pair[0].platform.is_for(wanted.platform)
        ]
    if wanted.config is not None:
        leaves = [pair for pair in leaves if _manifest(files, pair[0]).config.sha256 == wanted.config]
    names: dict[str, set[str]] = {}
    for descriptor, references in leaves:
        names.setdefault(descriptor.sha256, set()).update(references)
    if len(names) != 1:
        raise _several([_described(*pair) for pair in leaves], wanted)
    descriptor = leaves[0][0]
    manifest = _manifest(files, descriptor)
    config = _blob(files, manifest.config, "config")
    _check_agreement(files, descriptor, manifest, config)
    return _Found(
        form="oci",
        names=tuple(sorted(names[descriptor.sha256])),
        manifest=descriptor.sha256,
        config=config,
        layers=tuple((f"blobs/sha256/{layer.sha256}", layer) for layer in manifest.layers),
    )


def _manifest(files: ImageFiles, descriptor: Descriptor) -> ManifestFile:
    return read_manifest(_blob(files, descriptor, "manifest"), f"manifest {descriptor.sha256}")


def _check_layout(files: ImageFiles) -> None:
    with malformed():
        layout = Fields(parse(read_file(files, "oci-layout", 4096)), "oci-layout")
        layout.exactly("imageLayoutVersion", "1.0.0")


def _leaves(files: ImageFiles, index: bytes) -> list[tuple[Descriptor, frozenset[str]]]:
    """Every image that an index leads to, with the references to it, without what only describes images."""
    found: list[tuple[Descriptor, frozenset[str]]] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    pending: list[tuple[Descriptor | None, int, frozenset[str]]] = [(None, 0, frozenset())]
    while pending:
        at, depth, above = pending.pop()
        where = f"index {at.sha256}" if at else "index.json"
        for descriptor in read_index(_blob(files, at, where) if at else index, where):
            references = above | set(descriptor.names)
            if descriptor.is_attestation or (descriptor.sha256, references) in seen:
                continue
            seen.add((descriptor.sha256, references))
            if len(seen) > MAX_WAYS:
                raise beyond_limit(f"more than {MAX_WAYS} ways to its images", where=where)
            if descriptor.media_type in INDEXES:
                if depth >= MAX_NESTED:
                    raise ContainerError(f"more than {MAX_NESTED} indexes inside each other", where=where)
                pending.append((descriptor, depth + 1, references))
            elif descriptor.media_type in MANIFESTS:
                found.append((descriptor, references))
            elif "manifest.v1" in descriptor.media_type and "docker" in descriptor.media_type:
                raise not_read("is a manifest of schema 1", where=where)
    return found


def _described(descriptor: Descriptor, references: frozenset[str]) -> str:
    platform = f" for {descriptor.platform}" if descriptor.platform else ""
    return f"{', '.join(sorted(references)) or descriptor.sha256}{platform}"


def _several(found: list[str], wanted: Choice) -> ContainerError:
    if not found and wanted.config:
        return ambiguous(f"has no image whose configuration is sha256:{wanted.config}")
    if not found:
        asked = " and ".join(str(each) for each in (wanted.ref, wanted.platform) if each)
        return ambiguous(f"has no image {asked!a}" if asked else "has no image")
    listed = "; ".join(ascii(text)[1:-1] for text in found[:8]) + ("; .." if len(found) > 8 else "")
    return ambiguous(f"has {len(found)} images: {listed}", hint="name one with --ref or --platform")


def _check_agreement(
    files: ImageFiles, descriptor: Descriptor, manifest: ManifestFile, config: bytes
) -> None:
    """Index and configuration name one platform, and ``docker save``'s own list, if there, the same image."""
    said, has = descriptor.platform, read_config(config, "config").platform
    if said is not None and (said.os, said.architecture) != (has.os, has.architecture):
        raise two_readings(f"the index says {said}, the configuration {has}")
    if not files.has("manifest.json"):
        return
    saved = read_saved(read_file(files, "manifest.json", MAX_DOCUMENT))
    wanted = _sha256(config)
    layers = tuple(layer.sha256 for layer in manifest.layers)
    for image in saved:
        if _sha256(_config(files, image)) == wanted:
            if tuple(_hex_of(name) for name in image.layers) == layers:
                return
            raise two_readings("manifest.json and index.json have different layers for one configuration")
    raise two_readings("manifest.json does not have the image that index.json has")


# -------------------------------------------------------------------------------- docker save


def _hex_of(name: str) -> str:
    """The digest in a file's name, such as ``blobs/sha256/<hex>``, ``<hex>.json`` or ``sha256:<hex>``."""
    return name.rpartition("/")[2].removeprefix("sha256:").partition(".")[0]


def _config(files: ImageFiles, image: SavedImage) -> bytes:
    return read_file(files, image.config, MAX_DOCUMENT)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _from_saved(files: ImageFiles, wanted: Choice) -> _Found:
    if not files.has("manifest.json"):
        raise ContainerError("has neither index.json nor manifest.json")
    images = read_saved(read_file(files, "manifest.json", MAX_DOCUMENT))
    candidates = [image for image in images if wanted.ref is None or wanted.ref in image.tags]
    if wanted.config is not None:
        candidates = [image for image in candidates if _sha256(_config(files, image)) == wanted.config]
    if len(candidates) > 1 and wanted.platform is not None:
        platforms = [read_config(_config(files, image), "config").platform for image in candidates]
        pairs = zip(candidates, platforms, strict=True)
        candidates = [image for image, platform in pairs if platform.is_for(wanted.platform)]
    if len(candidates) != 1:
        raise _several([", ".join(image.tags) or image.config for image in candidates], wanted)
    (image,) = candidates
    config = _config(files, image)
    named, digest = _hex_of(image.config), _sha256(config)
    if len(named) == 64 and named != digest:
        raise wrong_digest(f"the configuration has SHA-256 {digest}", where=path_text(image.config.encode()))
    return _Found("docker-save", image.tags, None, config, tuple((name, None) for name in image.layers))
