"""image.lock: every input of an image by name, version, size, SHA-256 and path; never a host."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest.text import parse_toml
from coattest_build.image import ARCHITECTURES, LOCK_FILE, ImageSpec
from coattest_build.inputs.names import (
    DEBIAN_ARCHITECTURE,
    DEBIAN_NAME,
    DEBIAN_VERSION,
    POOL_PATH,
    PYTHON_NAME,
    PYTHON_VERSION,
    SHA256,
    WHEEL_FILE,
    normal_name,
)

FORMAT = "coattest-lock/v1"
USES = ("kernel", "runtime", "toolchain")
"""What a package is unpacked for."""
MAX_FILE = 2 * 1024 * 1024
"""Bytes of a lock; that of 150 packages has 24 kB."""
MAX_INPUT = 1024 * 1024 * 1024
"""Bytes of one input; the largest today, the kernel's source, has 153 MB."""
HEADER = "# Written by `eif lock`. Every input of the image, by content; no host is named here.\n\n"
REFRESH = "run `eif lock` to write a new one"
"""What to do about a bad lock."""


class BadLock(UsageError):
    """The lock does not parse, or image.toml names other inputs."""

    default_code = "bad-lock"


def _bad(what: str) -> BadLock:
    return BadLock(what, where=LOCK_FILE, hint=REFRESH)


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A .deb: ``size`` in bytes, ``path`` relative to a mirror's root, ``use`` some of USES."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    path: str
    use: tuple[str, ...]

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """A wheel: ``file`` is its file name in any index."""

    name: str
    version: str
    file: str
    size: int
    sha256: str

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class LockedLayer:
    """A layer of a container image: the SHA-256 (hex) and size in bytes of its uncompressed content."""

    diff_id: str
    size: int


@dataclass(frozen=True, slots=True)
class LockedContainer:
    """A container image: the SHA-256 (hex) of its configuration, with its size, and its layers.

    ``platform`` is such as linux/amd64. ``manifest`` is that of what it was pinned from, where it had one:
    another compression gives another manifest of the same image.
    """

    platform: str
    manifest: str | None
    config: str
    config_size: int
    layers: tuple[LockedLayer, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)

    def identity(self) -> dict[str, Any]:
        """What names the content, whoever compressed it, for an image's metadata: no manifest, no tag."""
        return {
            "config": f"sha256:{self.config}",
            "diff_ids": [f"sha256:{layer.diff_id}" for layer in self.layers],
            "platform": self.platform,
        }

    def to_json(self) -> dict[str, Any]:
        """Its table in the lock."""
        return {
            "platform": self.platform,
            **({"manifest": self.manifest} if self.manifest else {}),
            "config": self.config,
            "config_size": self.config_size,
            "layer": [{"diff_id": layer.diff_id, "size": layer.size} for layer in self.layers],
        }


@dataclass(frozen=True, slots=True)
class Lock:
    """Everything image.lock says; ``source_date_epoch`` is in seconds."""

    architecture: str
    source_date_epoch: int
    packages: tuple[LockedPackage, ...]
    wheels: tuple[LockedWheel, ...]
    container: LockedContainer | None = None

    def used_for(self, use: str) -> tuple[LockedPackage, ...]:
        """The packages for one use, sorted by name."""
        return tuple(package for package in self.packages if use in package.use)

    def render(self) -> str:
        """The text of the file: sorted, one table per input."""
        packages = [
            {
                "name": p.name,
                "version": p.version,
                "architecture": p.architecture,
                "size": p.size,
                "sha256": p.sha256,
                "path": p.path,
                "use": list(p.use),
            }
            for p in sorted(self.packages, key=lambda p: (p.name, p.version))
        ]
        wheels = [
            {"name": w.name, "version": w.version, "file": w.file, "size": w.size, "sha256": w.sha256}
            for w in sorted(self.wheels, key=lambda w: w.name)
        ]
        document = {
            "format": FORMAT,
            "architecture": self.architecture,
            "source_date_epoch": self.source_date_epoch,
            "package": packages,
            "wheel": wheels,
            **({"container": self.container.to_json()} if self.container else {}),
        }
        return HEADER + tomli_w.dumps(document)

    def check_against(self, spec: ImageSpec) -> None:
        """Raise BadLock unless image.toml and the lock name the same packages."""
        if self.architecture != spec.architecture:
            raise _bad(f"locked for {self.architecture}, not {spec.architecture}")
        names = {use: {package.name for package in self.used_for(use)} for use in USES}
        missing = (set(spec.toolchain) - names["toolchain"]) | ({spec.kernel.package} - names["kernel"])
        differing = sorted(missing | (set(spec.runtime) ^ names["runtime"]))
        if differing:
            raise _bad(f"does not agree with image.toml on {differing[0]}")
        if spec.from_container != (self.container is not None):
            has = "no container image" if spec.from_container else "a container image"
            raise _bad(f"pins {has}, and image.toml says otherwise")


def _fields(item: object, kinds: dict[str, type], where: str) -> dict[str, Any]:
    if not isinstance(item, dict) or set(item) != set(kinds):
        raise _bad(f"{where} must have exactly {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(item[key]) is not kind:
            raise _bad(f"{where}: {key} is not a {kind.__name__}")
    return item


def _grammatical(fields: Mapping[str, Any], grammars: Mapping[str, re.Pattern[str]]) -> None:
    """Raise BadLock for a text that its grammar does not allow: it would get into paths and commands."""
    for key, grammar in grammars.items():
        if not grammar.fullmatch(fields[key]):
            raise _bad(f"not allowed as a pin's {key}: {fields[key][:120]!r}")


def _checked_size(size: int, where: str) -> int:
    if not 0 < size <= MAX_INPUT:
        raise _bad(f"{where}: size {size} is not from 1 to {MAX_INPUT}")
    return size


def _package(item: object) -> LockedPackage:
    kinds = {"name": str, "version": str, "architecture": str, "size": int, "sha256": str, "path": str}
    fields = _fields(item, {**kinds, "use": list}, "a package")
    _grammatical(
        fields,
        {
            "name": DEBIAN_NAME,
            "version": DEBIAN_VERSION,
            "architecture": DEBIAN_ARCHITECTURE,
            "sha256": SHA256,
            "path": POOL_PATH,
        },
    )
    uses = fields["use"]
    if not uses or any(not isinstance(use, str) or use not in USES for use in uses):
        raise _bad(f"{fields['name']}: unknown use")
    if len(set(uses)) != len(uses):
        raise _bad(f"{fields['name']}: a use is named twice")
    _checked_size(fields["size"], fields["name"])
    return LockedPackage(**{**fields, "use": tuple(fields["use"])})


def _wheel(item: object) -> LockedWheel:
    kinds = {"name": str, "version": str, "file": str, "size": int, "sha256": str}
    fields = _fields(item, kinds, "a wheel")
    _grammatical(
        fields, {"name": PYTHON_NAME, "version": PYTHON_VERSION, "file": WHEEL_FILE, "sha256": SHA256}
    )
    named = WHEEL_FILE.fullmatch(fields["file"])
    if named is None or normal_name(named["name"]) != normal_name(fields["name"]):
        raise _bad(f"{fields['name']}: its file is another package's wheel: {fields['file']}")
    _checked_size(fields["size"], fields["name"])
    return LockedWheel(**fields)


MAX_CONTAINER = 64 << 30
"""Bytes of all layers of a container image: more than an enclave can hold."""
MAX_LAYERS = 1024
PLATFORM = re.compile(r"[a-z0-9]{1,16}(?:/[a-z0-9]{1,16}){1,2}")


def _container(item: object) -> LockedContainer:
    kinds = {"platform": str, "config": str, "config_size": int, "layer": list}
    named: dict[str, type] = {"manifest": str} if isinstance(item, dict) and "manifest" in item else {}
    fields = _fields(item, kinds | named, "the container image")
    _grammatical(fields, {"platform": PLATFORM, "config": SHA256, **dict.fromkeys(named, SHA256)})
    _checked_size(fields["config_size"], "the configuration")
    if len(fields["layer"]) > MAX_LAYERS:
        raise _bad(f"a container image of more than {MAX_LAYERS} layers")
    layers = []
    for each in fields["layer"]:
        layer = _fields(each, {"diff_id": str, "size": int}, "a layer")
        _grammatical(layer, {"diff_id": SHA256})
        if not 0 <= layer["size"] <= MAX_CONTAINER:
            raise _bad(f"a layer's size {layer['size']} is not from 0 to {MAX_CONTAINER}")
        layers.append(LockedLayer(layer["diff_id"], layer["size"]))
    pin = LockedContainer(
        fields["platform"], fields.get("manifest"), fields["config"], fields["config_size"], tuple(layers)
    )
    if pin.size > MAX_CONTAINER:
        raise _bad(f"a container image of more than {MAX_CONTAINER} bytes")
    return pin


def parse_lock(text: str) -> Lock:
    """The lock in ``text``. Raises BadLock."""
    try:
        document = parse_toml(text.encode(), max_size=MAX_FILE)
    except Rejected as error:
        raise _bad(error.what) from None
    kinds = {
        "format": str,
        "architecture": str,
        "source_date_epoch": int,
        "package": list,
        "wheel": list,
    }
    contained = "container" in document
    fields = _fields(document, {**kinds, "container": dict} if contained else kinds, "the lock")
    if fields["format"] != FORMAT:
        raise _bad(f"format is not {FORMAT!r}")
    if fields["architecture"] not in ARCHITECTURES:
        raise _bad(f"architecture is not one of {', '.join(ARCHITECTURES)}")
    if not 0 <= fields["source_date_epoch"] < 2**32:
        raise _bad("source_date_epoch does not fit into the 32 bits of a ramdisk's times")
    lock = Lock(
        architecture=fields["architecture"],
        source_date_epoch=fields["source_date_epoch"],
        packages=tuple(_package(item) for item in fields["package"]),
        wheels=tuple(_wheel(item) for item in fields["wheel"]),
        container=_container(fields["container"]) if contained else None,
    )
    foreign = [
        p.name for p in lock.packages if p.architecture not in ("all", ARCHITECTURES[lock.architecture])
    ]
    if foreign:
        raise _bad(f"{foreign[0]} is for another architecture than {lock.architecture}")
    wheels = (f"wheel {normal_name(wheel.name)}" for wheel in lock.wheels)
    names = [*(package.name for package in lock.packages), *wheels]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise _bad(f"{twice[0]} is pinned twice")
    return lock


def load_lock(source: Path) -> tuple[Lock, str]:
    """The lock of a source tree and the SHA-256 of its bytes (hex). Raises BadLock."""
    path = source / LOCK_FILE
    with Folder(source) as folder:
        try:
            data = folder.read(LOCK_FILE, MAX_FILE)
        except Rejected as error:
            what = "there is no lock" if error.code == "absent" else error.what
            raise BadLock(what, where=str(path), hint=REFRESH) from None
    try:
        return parse_lock(data.decode()), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        raise BadLock("not UTF-8", where=str(path), hint=REFRESH) from error
