"""The JSON documents of an image: indexes, manifests, the configuration, and ``docker save``'s list.

Sources: OCI image-spec 1.1 (index, manifest, config, image-layout); Docker Image Manifest V2, Schema 2;
moby's image/spec. Go's readers take a name in any case and the last of two, so both are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coattest.errors import Rejected
from coattest.strictjson import Fields, parse, shown
from coattest_build.containers.errors import beyond_limit, malformed, not_read, two_readings

MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest (the limit of the registries' specification) and of any other document here."""
MAX_LAYERS = 256
"""Docker's stores take 125 to 127."""
MAX_MANIFESTS = 1024
MAX_WORDS = 16_384
"""Words of a command, or variables of an environment."""
MAX_TEXT = 1 << 20
"""Characters of one of them."""

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYERS = re.compile(
    r"application/vnd\.oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, such as linux, arm64, v8; the variant is empty where none is named."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def is_for(self, wanted: Platform) -> bool:
        """Whether an image of this platform is the one asked for; arm64 is arm64/v8."""
        default = {"arm64": "v8"}.get(self.architecture, "")
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and (not wanted.variant or (self.variant or default) == wanted.variant)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob: its media type, SHA-256 in hex, size in bytes, and what is said about it."""

    media_type: str
    sha256: str
    size: int
    platform: Platform | None
    annotations: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The references that lead to it."""
        found = (self.annotations.get(key) for key in (REF_NAME, CONTAINERD_NAME))
        return tuple(name for name in found if name)

    @property
    def is_attestation(self) -> bool:
        """Whether it is a manifest of provenance beside an image, and no image."""
        unknown = self.platform is not None and self.platform.os == "unknown"
        return unknown or ATTESTATION in self.annotations


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A manifest: the configuration's descriptor and the layers', lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class SavedImage:
    """One image of ``docker save``'s manifest.json: names of files in the archive, and its tags."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """What an image says about itself; None where a field is absent or null, which is not empty."""

    platform: Platform
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] | None
    cmd: tuple[str, ...] | None
    env: tuple[str, ...]
    user: str
    working_dir: str
    volumes: tuple[str, ...]
    exposed_ports: tuple[str, ...]
    stop_signal: str
    healthcheck: bool


def _document(data: bytes, what: str) -> Fields:
    with malformed(what):
        return Fields(parse(data, max_size=MAX_DOCUMENT), what)


def exact_names(values: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuse names that are one of ``names`` in another case: Go's readers take them too.

    Also by the two letters beyond ASCII whose other case is in it, the long s and Kelvin's sign.
    """
    known = {name.casefold(): name for name in names}
    for name in values:
        if known.get(name.casefold(), name) != name:
            raise two_readings(f"the name {shown(name)} is {known[name.casefold()]} to Docker", where=where)


def read_index(data: bytes, what: str) -> tuple[Descriptor, ...]:
    """The descriptors of an index. Raises ContainerError."""
    document = _document(data, what)
    _kind(document, INDEXES, ("layers", "config", "fsLayers"))
    with malformed():
        items = document.items("manifests", high=MAX_MANIFESTS)
        return tuple(_descriptor(item, f"{what}: manifests[{n}]") for n, item in enumerate(items))


def read_manifest(data: bytes, what: str) -> ManifestFile:
    """A manifest of one image. Raises ContainerError: an index in its place, foreign layers, schema 1."""
    document = _document(data, what)
    if document.values.get("schemaVersion") == 1 or document.has("fsLayers"):
        raise not_read("is a manifest of schema 1", where=what, hint="pull and push it with a current tool")
    _kind(document, MANIFESTS, ("manifests",))
    with malformed():
        config = _descriptor(document.anything("config"), f"{what}: config")
        items = document.items("layers", high=MAX_LAYERS)
        layers = tuple(_descriptor(item, f"{what}: layers[{n}]") for n, item in enumerate(items))
    for number, layer in enumerate(layers, 1):
        where = f"{what}: layer {number}"
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise not_read(
                "a foreign layer: its content is at an address outside of the image",
                where=where,
                hint="copy it with a tool that fetches it",
            )
        if not _LAYERS.fullmatch(layer.media_type):
            raise not_read(f"a layer of type {shown(layer.media_type)}", where=where)
    return ManifestFile(config, layers)


def _kind(document: Fields, types: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Refuse a document that is another kind to another reader (CVE-2021-41190)."""
    exact_names(
        document.values, ("schemaVersion", "mediaType", "manifests", "layers", "config"), document.path
    )
    for name in others:
        if document.has(name):
            raise two_readings(f"has {name!r}, so it can be read as another kind", where=document.path)
    said = document.values.get("mediaType")
    if said is not None and said not in types:
        raise two_readings(f"its mediaType is {shown(str(said))}", where=document.path)


def _descriptor(value: Any, path: str) -> Descriptor:
    fields = Fields(value, path)
    exact_names(fields.values, ("mediaType", "digest", "size", "urls", "annotations", "platform"), path)
    digest = fields.text("digest")
    if not _DIGEST.fullmatch(digest):
        raise not_read(f"the digest {shown(digest)} is not a SHA-256", where=path)
    annotations = fields.optional("annotations", lambda name: fields.mapping(name, low=0, high=1024)) or {}
    if not all(isinstance(text, str) for text in annotations.values()):
        raise Rejected(f"{path}.annotations: not texts")
    if fields.values.get("urls") and "foreign" not in fields.text("mediaType"):
        raise not_read("a blob at an address outside of the image", where=path)
    return Descriptor(
        media_type=fields.text("mediaType"),
        sha256=digest.removeprefix("sha256:"),
        size=fields.integer("size"),
        platform=fields.optional("platform", lambda name: _platform(fields.fields(name))),
        annotations=dict(annotations),
    )


def _platform(fields: Fields) -> Platform:
    exact_names(fields.values, ("os", "architecture", "variant"), fields.path)
    variant = fields.values.get("variant") or ""
    if not isinstance(variant, str):
        raise Rejected(f"{fields.path}.variant: not a text")
    return Platform(fields.text("os", limit=64), fields.text("architecture", limit=64), variant)


def read_saved(data: bytes, what: str = "manifest.json") -> tuple[SavedImage, ...]:
    """The images of ``docker save``'s manifest.json. Raises ContainerError."""
    with malformed(what):
        items = parse(data, max_size=MAX_DOCUMENT)
        if not isinstance(items, list) or not 0 < len(items) <= MAX_MANIFESTS:
            raise Rejected(f"not an array of 1 to {MAX_MANIFESTS} images")
        found = []
        for number, item in enumerate(items):
            fields = Fields(item, f"[{number}]")
            exact_names(fields.values, ("Config", "Layers", "RepoTags"), what)
            layers = _texts(fields, "Layers", MAX_LAYERS)
            tags = _texts(fields, "RepoTags", MAX_MANIFESTS)
            found.append(SavedImage(fields.text("Config"), layers or (), tags or ()))
        return tuple(found)


def read_config(data: bytes, what: str) -> ContainerConfig:
    """An image's configuration. Raises ContainerError."""
    document = _document(data, what)
    with malformed():
        exact_names(document.values, ("os", "architecture", "variant", "rootfs", "config"), what)
        rootfs = document.fields("rootfs")
        exact_names(rootfs.values, ("diff_ids", "type"), what)
        rootfs.exactly("type", "layers")
        diff_ids = _texts(rootfs, "diff_ids", MAX_LAYERS) or ()
        for diff_id in diff_ids:
            if not _DIGEST.fullmatch(diff_id):
                raise not_read(f"the diff_id {shown(diff_id)} is not a SHA-256", where=what)
        found = document.values.get("config")
        run = Fields({} if found is None else found, f"{what}: config")
        exact_names(run.values, _RUN, run.path)
        return ContainerConfig(
            platform=_platform(document),
            diff_ids=tuple(diff_id.removeprefix("sha256:") for diff_id in diff_ids),
            entrypoint=_texts(run, "Entrypoint", MAX_WORDS),
            cmd=_texts(run, "Cmd", MAX_WORDS),
            env=_texts(run, "Env", MAX_WORDS) or (),
            user=_text(run, "User"),
            working_dir=_text(run, "WorkingDir"),
            volumes=_keys(run, "Volumes"),
            exposed_ports=_keys(run, "ExposedPorts"),
            stop_signal=_text(run, "StopSignal"),
            healthcheck=bool(run.values.get("Healthcheck")),
        )


_RUN = (
    "Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Volumes", "ExposedPorts", "StopSignal", "Healthcheck"
)  # fmt: skip


def _texts(fields: Fields, name: str, most: int) -> tuple[str, ...] | None:
    """An array of texts; None where it is absent or null."""
    value = fields.values.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Rejected(f"{fields.at(name)}: not an array of texts")
    if len(value) > most or any(len(item) > MAX_TEXT for item in value):
        raise beyond_limit(f"{fields.at(name)}: more than {most} texts, or one is too long")
    if any("\0" in item for item in value):
        raise Rejected(f"{fields.at(name)}: a text with a NUL")
    return tuple(value)


def _text(fields: Fields, name: str) -> str:
    value = fields.values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 4096 or "\0" in value:
        raise Rejected(f"{fields.at(name)}: not a text of at most 4096 characters")
    return value


def _keys(fields: Fields, name: str) -> tuple[str, ...]:
    value = fields.values.get(name)
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_WORDS:
        raise Rejected(f"{fields.at(name)}: not an object")
    return tuple(sorted(value))
