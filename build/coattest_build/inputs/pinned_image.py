"""A container image as an input that is pinned by content: taken from a file that somebody has, or the cache.

The pin is the configuration's digest with the diff_ids: whoever compressed or saved the image, these are the
same. The cache has the configuration and each layer, uncompressed, under their digests; everything is hashed
again while it is copied to a private file, and parsed from there only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest.files import atomic_file, open_plain, read_whole
from coattest_build.containers.image import (
    DEFAULT_SIZE,
    Choice,
    ImageLayer,
    OpenedImage,
    open_container_image,
)
from coattest_build.containers.manifests import MAX_DOCUMENT, read_config
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.containers.sources import FilePart, HeldBytes, Positioned, Spool, plain_blocks
from coattest_build.image import IMAGE_FILE
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.lock import BadLock, LockedContainer, LockedLayer


def pin_of(opened: OpenedImage) -> LockedContainer:
    """What a lock says of an image. Raises BadLock for a file system, which has no configuration."""
    if opened.config is None or opened.config_sha256 is None:
        raise BadLock("a file system has no configuration that names it", hint="save the image instead")
    layers = tuple(LockedLayer(layer.diff_id, layer.content.size) for layer in opened.layers)
    return LockedContainer(
        str(opened.config.platform), opened.manifest, opened.config_sha256, len(opened.document), layers
    )


@contextlib.contextmanager
def open_pinned(pin: LockedContainer, store: Cache, given: ImagePlace | None) -> Iterator[OpenedImage]:
    """The pinned image, from the file or folder ``given``, which fills the cache, or from the cache.

    Raises FoundFalse (``container-digest``) for another image or content that is not what its digest says,
    ContainerError, and EnvironmentFailure (``container-missing``) where the cache does not have it.
    """
    if given is None:
        with _cached(pin, store) as opened:
            yield opened
        return
    with open_container_image(given, Choice(config=pin.config), max_size=_room(pin)) as opened:
        found = pin_of(opened)
        if (found.config, found.layers, found.platform) != (pin.config, pin.layers, pin.platform):
            raise FoundFalse("is not the pinned image", where=str(given), code="container-digest")
        _store(store, pin.config, HeldBytes(opened.document))
        for layer in opened.layers:
            _store(store, layer.diff_id, layer.content)
        yield opened


def _room(pin: LockedContainer) -> int:
    """Bytes that it may unpack to: a compressed archive is spooled too."""
    return max(DEFAULT_SIZE, 4 * pin.size)


def _store(store: Cache, sha256: str, content: Positioned) -> None:
    """Put content that was just checked into the cache, with one rename."""
    if store.take(sha256, content.size) is not None:
        return
    try:
        with atomic_file(store.path(sha256)) as temporary, temporary.open("wb") as file:
            file.writelines(plain_blocks(content))
    except OSError as error:
        raise EnvironmentFailure(
            f"the cache cannot be written: {error.strerror}", where=str(store.folder)
        ) from error


@contextlib.contextmanager
def _cached(pin: LockedContainer, store: Cache) -> Iterator[OpenedImage]:
    place = store.take(pin.config, pin.config_size)
    if place is None:
        raise _missing(f"the configuration sha256:{pin.config}")
    document = read_whole(place, MAX_DOCUMENT)
    if hashlib.sha256(document).hexdigest() != pin.config:
        raise _missing(f"the configuration sha256:{pin.config}, which was damaged")
    with Spool(max(pin.size, 1)) as spool:
        layers = tuple(_cached_layer(layer, store, spool) for layer in pin.layers)
        config = read_config(document, "config")
        if config.diff_ids != tuple(layer.diff_id for layer in pin.layers):
            raise FoundFalse("the lock's layers are not the configuration's", code="container-digest")
        yield OpenedImage("cache", (), pin.manifest, pin.config, config, layers, document, _room(pin))


def _cached_layer(pin: LockedLayer, store: Cache, spool: Spool) -> ImageLayer:
    try:
        with open_plain(store.path(pin.diff_id)) as file:
            size = os.fstat(file.fileno()).st_size
            content, found = spool.add(plain_blocks(FilePart(file, 0, min(size, pin.size))), "layer")
    except FileNotFoundError:
        raise _missing(f"the layer sha256:{pin.diff_id}") from None
    if found != pin.diff_id or size != pin.size:
        store.path(pin.diff_id).unlink(missing_ok=True)
        raise _missing(f"the layer sha256:{pin.diff_id}, which was damaged")
    return ImageLayer(pin.diff_id, None, content)


def _missing(what: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"the cache does not have {what} of the pinned container image",
        where=f"{IMAGE_FILE} [container]",
        hint="give the image with --from: an OCI layout, or an archive of docker save or skopeo",
        code="container-missing",
    )
