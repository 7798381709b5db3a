"""image.toml: what goes into an image, as a frozen value. Unknown and missing keys are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest.network import NO_NETWORK, Network, parse_network
from coattest.text import parse_toml
from coattest_build.inputs.names import (
    COMMAND_LINE,
    COMPONENT,
    DEBIAN_NAME,
    IMAGE_TEXT,
    SUITE,
    USER,
    VARIABLE,
    is_plain,
    is_relative_path,
)

FORMAT = "coattest-image/v1"
ARCHITECTURES = {"x86_64": "amd64"}
"""The architectures that can be built, with Debian's names for them."""
MINIMAL, CONTAINER = "minimal", "container"
KERNEL_PROFILES = (MINIMAL, CONTAINER)
"""What a kernel and its init are for: one program of one's own, or ordinary programs (ADR 197)."""
PROFILE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
IMAGE_FILE = "build/image.toml"
LOCK_FILE = "build/image.lock"
SOURCE_FOLDERS = ("build/kernel", "build/init", "enclave")
"""The folders of a source tree that an image is made from, and that its digest covers."""
MAX_FILE = 1024 * 1024
MAX_LIST = 4096
"""Entries of a list: packages, directories, words of the command."""
MAX_WILDCARDS = 1000
"""Of all globs of ``prune``: each is tried on every path of the packages, of which there are 20,000."""


def _bad(what: str, where: str, hint: str | None = None) -> UsageError:
    """The error for an image.toml that does not parse or breaks a rule."""
    return UsageError(what, where=where, hint=hint, code="bad-image-toml")


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel's source package, the tarball inside it, and the fragment and init (source-relative).

    ``profile`` is one of KERNEL_PROFILES: what the kernel must have and must not, and what its init reads.
    """

    package: str
    tarball: str
    config: str
    init: str
    profile: str = MINIMAL


@dataclass(frozen=True, slots=True)
class ContainerRun:
    """What only the profile ``container`` gives: user (and group), working folder, /dev/nsm, network."""

    user: str = ""
    folder: str = "/"
    nsm: bool = False
    network: Network = NO_NETWORK


@dataclass(frozen=True, slots=True)
class Wheels:
    """The requirements file (source-relative), and where in the image its wheels are unpacked.

    ``wanted`` is the file of names that ``eif lock`` makes the requirements file from (source-relative).
    """

    requirements: str
    target: str
    wanted: str | None = None


@dataclass(frozen=True, slots=True)
class Bytecode:
    """The image's interpreter, and the directories whose modules it compiles (root-relative).

    In ``directories`` a .pyc is written beside each source; in ``sourceless`` ones it replaces the source.
    """

    interpreter: str
    directories: tuple[str, ...]
    sourceless: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Everything that image.toml says. Paths inside the image have no leading slash, except the command's.

    An image without Python has neither ``wheels`` nor ``bytecode``. ``container`` is there with that profile.
    Where ``from_container``, the files and what runs are those of the lock's container image.
    """

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
    wheels: Wheels | None
    bytecode: Bytecode | None
    files: tuple[tuple[str, str], ...]
    profile_target: str
    profiles: tuple[tuple[str, str], ...]
    container: ContainerRun | None = None
    from_container: bool = False

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
    """A TOML table every key of which must be read: ``finish`` refuses the others."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where, self._read = values, where, set[str]()

    def _take(self, key: str, kind: type) -> Any:
        self._read.add(key)
        value = self._values.get(key)
        if not isinstance(value, kind):
            raise _bad(f"{key} is missing or not a {kind.__name__}", self._where)
        return value

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, grammar: re.Pattern[str]) -> str:
        value: str = self._take(key, str)
        if not grammar.fullmatch(value):
            raise _bad(f"{key} is not allowed: {value[:80]!r}", self._where)
        return value

    def text_or(self, key: str, grammar: re.Pattern[str], default: str) -> str:
        return self.text(key, grammar) if self.has(key) else default

    def flag(self, key: str) -> bool:
        """A boolean; false when it is missing."""
        return self.has(key) and bool(self._take(key, bool))

    def path(self, key: str) -> str:
        return _relative(self._take(key, str), f"{self._where} {key}")

    def source(self, key: str) -> str:
        return _in_source(self._take(key, str), f"{self._where} {key}")

    def choice(self, key: str, known: Iterable[str]) -> str:
        value: str = self._take(key, str)
        if value not in known:
            raise _bad(f"{key} {value[:80]!r} is not supported", self._where, f"one of {', '.join(known)}")
        return value

    def texts(
        self, key: str, grammar: re.Pattern[str] | None = None, *, optional: bool = False
    ) -> tuple[str, ...]:
        if optional and not self.has(key):
            return ()
        values = self._take(key, list)
        if len(values) > MAX_LIST or not all(isinstance(value, str) and is_plain(value) for value in values):
            raise _bad(
                f"{key} must be a list of at most {MAX_LIST} strings, none empty or with control characters",
                self._where,
            )
        wrong = [value for value in values if grammar and not grammar.fullmatch(value)]
        if wrong:
            raise _bad(f"{key}: not allowed: {wrong[0][:80]!r}", self._where)
        return tuple(values)

    def paths(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        return tuple(_relative(value, f"{self._where} {key}") for value in self.texts(key, optional=optional))

    def table(self, key: str) -> _Table:
        return _Table(self._take(key, dict), f"{self._where} [{key}]")

    def table_or_none(self, key: str) -> _Table | None:
        return self.table(key) if self.has(key) else None

    def pairs(self, key: str, *, without: tuple[str, ...] = ()) -> tuple[tuple[str, str], ...]:
        """The texts of a table by name, sorted; empty when the table is missing."""
        if not self.has(key):
            return ()
        chosen = {name: value for name, value in self._take(key, dict).items() if name not in without}
        # No control characters: in the image, the command and the environment have a line for each text.
        for name, value in chosen.items():
            if not isinstance(value, str) or not is_plain(f"{name}{value}") or not name:
                raise _bad(f"{key} must map strings to strings, one line each", self._where)
        return tuple(sorted(chosen.items()))

    def ignore(self, keys: Iterable[str]) -> None:
        self._read.update(keys)

    def finish(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise _bad(f"unknown key {unknown[0]!r}", self._where)


def _relative(value: str, where: str) -> str:
    if not is_relative_path(value):
        raise _bad(f"{value[:80]!r} is not a plain relative path", where)
    return value


def _in_source(value: str, where: str) -> str:
    """A source-relative path that the digest of the source covers."""
    _relative(value, where)
    if not any(value == folder or value.startswith(f"{folder}/") for folder in SOURCE_FOLDERS):
        raise _bad(
            f"{value[:80]!r} is outside {', '.join(SOURCE_FOLDERS)}",
            where,
            "move the file into one of these folders of the source tree",
        )
    return value


def _command(words: tuple[str, ...], profile: str, where: str) -> tuple[str, ...]:
    """The command; minimal's init searches no PATH, so that there it begins with the program's path."""
    if not words or (profile == MINIMAL and not words[0].startswith("/")):
        raise _bad("command must begin with the absolute path of a program", where)
    _relative(words[0].removeprefix("/"), f"{where} command")
    return words


def _container_run(run: _Table, profile: str, where: str) -> ContainerRun | None:
    """The fields of ``[run]`` that only the profile ``container`` has."""
    if profile == CONTAINER:
        folder = run.text_or("workdir", re.compile(r"/(?:[^/].*)?"), "/")
        if folder != "/":
            _relative(folder[1:], f"{where} workdir")
        user, nsm = run.text_or("user", USER, ""), run.flag("nsm")
        return ContainerRun(user, folder, nsm, _network(run, where))
    for key in ("user", "workdir", "nsm", "network"):
        if run.has(key):
            raise _bad(
                f"{key} is for the kernel profile {CONTAINER}; with {profile} the program is root in / and "
                "has /dev/nsm",
                where,
                f'take {key} out, or set profile = "{CONTAINER}" under [kernel], with its fragment and init',
            )
    return None


def _payload_run(payload: _Table, top: _Table, profile: str) -> ContainerRun:
    """``[container]``: files, command, user and folder are those of the image that the lock pins."""
    if profile != CONTAINER:
        raise _bad(f'a container image needs profile = "{CONTAINER}"', f"{IMAGE_FILE} [kernel]")
    for name in ("run", "runtime", "wheels", "bytecode", "files"):
        if top.has(name):
            raise _bad(f"[{name}] is not for an image of a [container], which has its own", IMAGE_FILE)
    return ContainerRun(nsm=payload.flag("nsm"), network=_network(payload, f"{IMAGE_FILE} [container]"))


def _network(table: _Table, where: str) -> Network:
    """``network`` of a table: two lists of texts, either of which may be left out."""
    pipes = table.table_or_none("network")
    if pipes is None:
        return NO_NETWORK
    listen, connect = pipes.texts("listen", optional=True), pipes.texts("connect", optional=True)
    pipes.finish()
    try:
        return parse_network(listen, connect)
    except UsageError as error:
        raise _bad(error.what, f"{where} network", error.hint) from None


def _environment(pairs: tuple[tuple[str, str], ...], where: str) -> tuple[tuple[str, str], ...]:
    """The environment; a name with = in it would be read as a different name."""
    for name, _ in pairs:
        if not VARIABLE.fullmatch(name):
            raise _bad(f"{name[:80]!r} is not the name of a variable", f"{where} [environment]")
    return pairs


def parse_spec(text: str) -> ImageSpec:
    """The specification in the text of an image.toml. Raises UsageError."""
    try:
        top = _Table(parse_toml(text.encode(), max_size=MAX_FILE), IMAGE_FILE)
    except Rejected as error:
        raise _bad(error.what, IMAGE_FILE) from None
    top.choice("format", (FORMAT,))
    debian, kernel = top.table("debian"), top.table("kernel")
    toolchain, profiles = top.table("toolchain"), top.table("profiles")
    payload = top.table_or_none("container")
    run, runtime = (top.table(name) if payload is None else _Table({}, name) for name in ("run", "runtime"))
    wheels, bytecode = top.table_or_none("wheels"), top.table_or_none("bytecode")
    kernel_profile = kernel.choice("profile", KERNEL_PROFILES) if kernel.has("profile") else MINIMAL
    profile_files = top.pairs("profiles", without=("target",))
    spec = ImageSpec(
        name=top.text("name", IMAGE_TEXT),
        release=top.text("release", IMAGE_TEXT),
        architecture=top.choice("architecture", ARCHITECTURES),
        default_profile=top.text("default_profile", PROFILE_NAME),
        cmdline=top.text("cmdline", COMMAND_LINE),
        command=(
            _command(run.texts("command"), kernel_profile, f"{IMAGE_FILE} [run]") if payload is None else ()
        ),
        environment=_environment(run.pairs("environment"), f"{IMAGE_FILE} [run]"),
        suites=debian.texts("suites", SUITE),
        component=debian.text("component", COMPONENT),
        kernel=Kernel(
            kernel.text("package", DEBIAN_NAME),
            kernel.path("tarball"),
            kernel.source("config"),
            kernel.source("init"),
            kernel_profile,
        ),
        toolchain=toolchain.texts("packages", DEBIAN_NAME),
        toolchain_links=toolchain.pairs("links"),
        runtime=runtime.texts("packages", DEBIAN_NAME, optional=payload is not None),
        directories=runtime.paths("directories", optional=payload is not None),
        prune=runtime.paths("prune", optional=True),
        wheels=(
            Wheels(
                wheels.source("requirements"),
                wheels.path("target"),
                wheels.source("wanted") if wheels.has("wanted") else None,
            )
            if wheels
            else None
        ),
        bytecode=(
            Bytecode(
                bytecode.path("interpreter"),
                bytecode.paths("directories", optional=True),
                bytecode.paths("sourceless", optional=True),
            )
            if bytecode
            else None
        ),
        files=top.pairs("files"),
        profile_target=profiles.path("target"),
        profiles=profile_files,
        container=(
            _container_run(run, kernel_profile, f"{IMAGE_FILE} [run]")
            if payload is None
            else _payload_run(payload, top, kernel_profile)
        ),
        from_container=payload is not None,
    )
    profiles.ignore(name for name, _ in profile_files)
    for table in (top, run, debian, kernel, toolchain, runtime, profiles, wheels, bytecode, payload):
        if table:
            table.finish()
    _check(spec)
    return spec


def _check(spec: ImageSpec) -> None:
    """Check the rules for single values and for several fields together. Raises UsageError."""
    for target, source in spec.files:
        _relative(target, f"{IMAGE_FILE} [files]")
        _in_source(source, f"{IMAGE_FILE} [files]")
    for link, target in spec.toolchain_links:
        _relative(link, f"{IMAGE_FILE} [toolchain]")
        _relative(target, f"{IMAGE_FILE} [toolchain]")
    for name, source in spec.profiles:
        _in_source(source, f"{IMAGE_FILE} [profiles]")
        if not PROFILE_NAME.fullmatch(name):
            raise _bad(f"{name!r} is not a profile name", IMAGE_FILE)
    if not spec.suites:
        raise _bad("suites is empty", f"{IMAGE_FILE} [debian]")
    if sum(glob.count(wild) for glob in spec.prune for wild in "*?[") > MAX_WILDCARDS:
        raise _bad(f"prune has more than {MAX_WILDCARDS} wildcards", f"{IMAGE_FILE} [runtime]")
    spec.profile_source(spec.default_profile)


def load_spec(source: Path) -> ImageSpec:
    """The specification of a source tree. Raises UsageError when there is none or it does not parse."""
    with Folder(source) as folder:
        try:
            data = folder.read(IMAGE_FILE, MAX_FILE)
        except Rejected as error:
            if error.code != "absent":
                raise _bad(error.what, str(source / IMAGE_FILE)) from None
            raise UsageError(
                f"no {IMAGE_FILE} here", where=str(source), hint="name the source tree with --source"
            ) from None
    try:
        return parse_spec(data.decode())
    except UnicodeDecodeError:
        raise _bad("not UTF-8", str(source / IMAGE_FILE)) from None
