"""image.toml: what goes into an image, as a frozen value. Unknown or missing keys are refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coattest_build.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = "coattest-image/v1"
ARCHITECTURES = {"x86_64": "amd64"}
PROFILE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
IMAGE_FILE = "build/image.toml"
LOCK_FILE = "build/image.lock"
MAX_FILE = 1024 * 1024


class BadImageFile(UsageError):
    """image.toml does not say what it must, or says more."""

    default_reason = "bad-image-toml"


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel source package, the tarball inside it, and our fragment and init (source-relative)."""

    package: str
    tarball: str
    config: str
    init: str


@dataclass(frozen=True, slots=True)
class Bytecode:
    """Which interpreter of the image compiles which of its directories (root-relative).

    In ``directories`` a .pyc comes beside each source; in ``sourceless`` ones it takes its place.
    """

    interpreter: str
    directories: tuple[str, ...]
    sourceless: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Everything image.toml says. Paths inside the image have no leading slash."""

    name: str
    release: str
    architecture: str
    default_profile: str
    cmdline: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    suites: tuple[str, ...]
    component: str
    kernel: Kernel
    toolchain: tuple[str, ...]
    toolchain_links: tuple[tuple[str, str], ...]
    runtime: tuple[str, ...]
    directories: tuple[str, ...]
    prune: tuple[str, ...]
    requirements: str
    wheels_target: str
    bytecode: Bytecode
    files: tuple[tuple[str, str], ...]
    profile_target: str
    profiles: tuple[tuple[str, str], ...]

    @property
    def debian_architecture(self) -> str:
        """Debian's name for the architecture."""
        return ARCHITECTURES[self.architecture]

    def profile_source(self, profile: str) -> str:
        """The source-relative path of a profile's file. Raises UsageError for an unknown profile."""
        for name, source in self.profiles:
            if name == profile:
                return source
        known = ", ".join(name for name, _ in self.profiles)
        raise UsageError(f"no profile {profile!r}", where=IMAGE_FILE, hint=f"one of {known}")


class _Table:
    """One TOML table that must be read completely."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where, self._read = values, where, set[str]()

    def _take(self, key: str, kind: type) -> Any:
        self._read.add(key)
        value = self._values.get(key)
        if not isinstance(value, kind):
            raise BadImageFile(f"{key} is missing or not a {kind.__name__}", where=self._where)
        return value

    def text(self, key: str) -> str:
        value: str = self._take(key, str)
        if not value or any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise BadImageFile(f"{key} is empty or has control characters", where=self._where)
        return value

    def path(self, key: str) -> str:
        return _relative(self.text(key), f"{self._where} {key}")

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._take(key, list)
        if not all(isinstance(value, str) and value for value in values):
            raise BadImageFile(f"{key} must be a list of texts", where=self._where)
        return tuple(values)

    def paths(self, key: str) -> tuple[str, ...]:
        return tuple(_relative(value, f"{self._where} {key}") for value in self.texts(key))

    def table(self, key: str) -> _Table:
        return _Table(self._take(key, dict), f"{self._where} [{key}]")

    def pairs(self, key: str | None = None, *, but: tuple[str, ...] = ()) -> tuple[tuple[str, str], ...]:
        values = self._values if key is None else self._take(key, dict)
        chosen = {name: value for name, value in values.items() if name not in but}
        if not all(isinstance(value, str) for value in chosen.values()):
            raise BadImageFile(f"{key or 'the table'} must map texts to texts", where=self._where)
        self._read.update(chosen if key is None else ())
        return tuple(sorted(chosen.items()))

    def done(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise BadImageFile(f"unknown key {unknown[0]!r}", where=self._where)


def _relative(value: str, where: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or str(path) != value or value == ".":
        raise BadImageFile(f"{value!r} is not a plain relative path", where=where)
    return value


def parse(text: str) -> ImageSpec:
    """The specification in the text of an image.toml. Raises BadImageFile."""
    try:
        top = _Table(tomllib.loads(text), IMAGE_FILE)
    except tomllib.TOMLDecodeError as error:
        raise BadImageFile(f"not TOML: {error}", where=IMAGE_FILE) from error
    if top.text("format") != FORMAT:
        raise BadImageFile(f"format is not {FORMAT!r}", where=IMAGE_FILE)
    run, debian, kernel = top.table("run"), top.table("debian"), top.table("kernel")
    toolchain, runtime, wheels = top.table("toolchain"), top.table("runtime"), top.table("wheels")
    bytecode, files, profiles = top.table("bytecode"), top.table("files"), top.table("profiles")
    spec = ImageSpec(
        name=top.text("name"),
        release=top.text("release"),
        architecture=top.text("architecture"),
        default_profile=top.text("default_profile"),
        cmdline=top.text("cmdline"),
        command=run.texts("command"),
        environment=run.pairs("environment"),
        suites=debian.texts("suites"),
        component=debian.text("component"),
        kernel=Kernel(
            kernel.text("package"), kernel.path("tarball"), kernel.path("config"), kernel.path("init")
        ),
        toolchain=toolchain.texts("packages"),
        toolchain_links=toolchain.pairs("links"),
        runtime=runtime.texts("packages"),
        directories=runtime.paths("directories"),
        prune=runtime.paths("prune"),
        requirements=wheels.path("requirements"),
        wheels_target=wheels.path("target"),
        bytecode=Bytecode(
            bytecode.path("interpreter"), bytecode.paths("directories"), bytecode.paths("sourceless")
        ),
        files=files.pairs(),
        profile_target=profiles.path("target"),
        profiles=profiles.pairs(but=("target",)),
    )
    for table in (top, run, debian, kernel, toolchain, runtime, wheels, bytecode, files, profiles):
        table.done()
    for target, source in (*spec.files, *spec.toolchain_links):
        _relative(target, IMAGE_FILE)
        _relative(source, IMAGE_FILE)
    for name, source in spec.profiles:
        _relative(source, IMAGE_FILE)
        if not PROFILE_NAME.fullmatch(name):
            raise BadImageFile(f"{name!r} is not a profile name", where=IMAGE_FILE)
    if spec.architecture not in ARCHITECTURES:
        raise BadImageFile(f"architecture {spec.architecture!r} is not supported", where=IMAGE_FILE)
    spec.profile_source(spec.default_profile)
    return spec


def load(source: Path) -> ImageSpec:
    """The specification of a source tree. Raises UsageError when there is none or it does not parse."""
    path = source / IMAGE_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"no {IMAGE_FILE} here", where=str(source), hint="name the source tree with --source"
        ) from None
    if len(data) > MAX_FILE:
        raise BadImageFile("larger than 1 MiB", where=str(path))
    try:
        return parse(data.decode())
    except UnicodeDecodeError as error:
        raise BadImageFile("not UTF-8", where=str(path)) from error
