"""image.lock: every input of an image by name, version, size, SHA-256 and path; never a host."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest.strictjson import Fields
from coattest.text import parse_toml
from coattest_build.image import ARCHITECTURES, LOCK_FILE, ImageSpec
from coattest_build.inputs.names import (
    PACKAGE,
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
ADD = "`eif lock --keep` pins what is new, and keeps the other pins"
"""What to do where image.toml names something else."""
NAME_CONTAINER = "name the image: `eif lock --keep --from IMAGE`"
"""What to do where [container] of image.toml has no pin."""


class BadLock(UsageError):
    """The lock does not parse, or image.toml names other inputs."""

    default_code = "bad-lock"


def _bad(what: str, hint: str = REFRESH) -> BadLock:
    return BadLock(what, where=LOCK_FILE, hint=hint)


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
            "layer": [asdict(layer) for layer in self.layers],
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
        document = {
            "format": FORMAT,
            "architecture": self.architecture,
            "source_date_epoch": self.source_date_epoch,
            "package": [asdict(p) for p in sorted(self.packages, key=lambda p: (p.name, p.version))],
            "wheel": [asdict(w) for w in sorted(self.wheels, key=lambda w: w.name)],
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
            raise _bad(f"does not agree with image.toml on {differing[0]}", ADD)
        if spec.from_container and self.container is None:
            raise _bad("pins no container image, and image.toml has [container]", NAME_CONTAINER)
        if self.container is not None and not spec.from_container:
            raise _bad("pins a container image, and image.toml has no [container]", ADD)


MAX_CONTAINER = 64 << 30
"""Bytes of all layers of a container image: more than an enclave can hold."""
MAX_LAYERS = 1024
MAX_PINS = 10_000
"""Packages, and wheels."""
PLATFORM = re.compile(r"[a-z0-9]{1,16}(?:/[a-z0-9]{1,16}){1,2}")


def _tables(fields: Fields, name: str, high: int) -> Iterator[Fields]:
    """The tables of an array, each of which must be read whole."""
    for number, item in enumerate(fields.items(name, high=high), 1):
        table = Fields(item, f"{name} {number}")
        yield table
        table.done()


def _package(fields: Fields) -> LockedPackage:
    uses = fields.items("use", low=1, high=len(USES))
    if any(use not in USES for use in uses) or any(uses.count(use) > 1 for use in uses):
        raise Rejected(f"{fields.at('use')}: not some of {', '.join(USES)}, each once")
    texts = {name: fields.text(name, grammar) for name, grammar in PACKAGE.items()}
    return LockedPackage(**texts, size=fields.integer("size", 1, MAX_INPUT), use=tuple(uses))


def _wheel(fields: Fields) -> LockedWheel:
    wheel = LockedWheel(
        name=fields.text("name", PYTHON_NAME),
        version=fields.text("version", PYTHON_VERSION),
        file=fields.text("file", WHEEL_FILE),
        size=fields.integer("size", 1, MAX_INPUT),
        sha256=fields.text("sha256", SHA256),
    )
    named = WHEEL_FILE.fullmatch(wheel.file)
    if named is None or normal_name(named["name"]) != normal_name(wheel.name):
        raise Rejected(f"{wheel.name}: its file is another package's wheel: {wheel.file}")
    return wheel


def _container(fields: Fields) -> LockedContainer:
    pin = LockedContainer(
        platform=fields.text("platform", PLATFORM),
        manifest=fields.optional("manifest", partial(fields.text, pattern=SHA256)),
        config=fields.text("config", SHA256),
        config_size=fields.integer("config_size", 1, MAX_INPUT),
        layers=tuple(
            LockedLayer(layer.text("diff_id", SHA256), layer.integer("size", 0, MAX_CONTAINER))
            for layer in _tables(fields, "layer", MAX_LAYERS)
        ),
    )
    fields.done()
    if pin.size > MAX_CONTAINER:
        raise Rejected(f"a container image of more than {MAX_CONTAINER} bytes")
    return pin


def _lock(fields: Fields) -> Lock:
    fields.exactly("format", FORMAT)
    container: Fields | None = fields.optional("container", fields.fields)
    lock = Lock(
        architecture=fields.choice("architecture", tuple(ARCHITECTURES)),
        source_date_epoch=fields.integer("source_date_epoch", 0, 2**32 - 1),  # a ramdisk's times have 32 bits
        packages=tuple(_package(each) for each in _tables(fields, "package", MAX_PINS)),
        wheels=tuple(_wheel(each) for each in _tables(fields, "wheel", MAX_PINS)),
        container=_container(container) if container else None,
    )
    fields.done()
    foreign = [
        p.name for p in lock.packages if p.architecture not in ("all", ARCHITECTURES[lock.architecture])
    ]
    if foreign:
        raise Rejected(f"{foreign[0]} is for a different architecture than {lock.architecture}")
    wheels = (f"wheel {normal_name(wheel.name)}" for wheel in lock.wheels)
    names = [*(package.name for package in lock.packages), *wheels]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise Rejected(f"{twice[0]} is pinned twice")
    return lock


def parse_lock(text: str) -> Lock:
    """The lock in ``text``. Raises BadLock."""
    try:
        return _lock(Fields(parse_toml(text.encode(), max_size=MAX_FILE), ""))
    except Rejected as error:
        raise _bad(error.what) from None


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
