"""image.toml: what goes into an image, as a frozen value. Unknown and missing keys are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest.network import NO_NETWORK, Network, parse_network
from coattest.strictjson import Fields, shown
from coattest.text import parse_toml
from coattest_build.inputs.names import (
    COMMAND_LINE,
    COMPONENT,
    DEBIAN_NAME,
    IMAGE_TEXT,
    PATH_MAX,
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
WORKDIR = re.compile(r"/(?:[^/].*)?")
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


def _relative(value: str, where: str) -> str:
    if not is_relative_path(value):
        raise Rejected(f"{where}: {shown(value)} is not a plain relative path")
    return value


def _in_source(value: str, where: str) -> str:
    """A source-relative path that the digest of the source covers."""
    _relative(value, where)
    if not any(value == folder or value.startswith(f"{folder}/") for folder in SOURCE_FOLDERS):
        raise Rejected(
            f"{where}: {shown(value)} is outside {', '.join(SOURCE_FOLDERS)}",
            hint="move the file into one of these folders of the source tree",
        )
    return value


def _path(table: Fields, key: str) -> str:
    return _relative(table.text(key, limit=PATH_MAX), table.at(key))


def _source(table: Fields, key: str) -> str:
    return _in_source(table.text(key, limit=PATH_MAX), table.at(key))


def _texts(
    table: Fields, key: str, grammar: re.Pattern[str] | None = None, *, optional: bool = False
) -> tuple[str, ...]:
    """A list of texts; one that is ``optional`` is empty when it is missing."""
    if optional and not table.has(key):
        return ()
    values = table.items(key, high=MAX_LIST)
    for value in values:
        if not isinstance(value, str) or not is_plain(value) or (grammar and not grammar.fullmatch(value)):
            rule = f"of the form {grammar.pattern}" if grammar else "a text without control characters"
            raise Rejected(f"{table.at(key)}: {shown(str(value))} is not {rule}")
    return tuple(values)


def _paths(table: Fields, key: str, *, optional: bool = False) -> tuple[str, ...]:
    return tuple(_relative(value, table.at(key)) for value in _texts(table, key, optional=optional))


def _pairs(table: Fields, key: str) -> tuple[tuple[str, str], ...]:
    """The texts of a table by name, sorted; empty when the table is missing."""
    found = table.optional(key, partial(table.mapping, low=0, high=MAX_LIST)) or {}
    # No control characters: in the image, the command and the environment have a line for each text.
    for name, value in found.items():
        if not isinstance(value, str) or not is_plain(f"{name}{value}") or not name:
            raise Rejected(f"{table.at(key)} must map strings to strings, one line each")
    return tuple(sorted(found.items()))


def _command(run: Fields, profile: str) -> tuple[str, ...]:
    """The command; minimal's init searches no PATH, so that there it begins with the program's path."""
    words = _texts(run, "command")
    if not words or (profile == MINIMAL and not words[0].startswith("/")):
        raise Rejected("run.command must begin with the absolute path of a program")
    _relative(words[0].removeprefix("/"), "run.command")
    return words


def _container_run(run: Fields, profile: str) -> ContainerRun | None:
    """The fields of ``[run]`` that only the profile ``container`` has."""
    if profile == CONTAINER:
        folder = run.optional("workdir", partial(run.text, pattern=WORKDIR, limit=PATH_MAX)) or "/"
        if folder != "/":
            _relative(folder[1:], "run.workdir")
        user = run.optional("user", partial(run.text, pattern=USER)) or ""
        return ContainerRun(user, folder, bool(run.optional("nsm", run.boolean)), _network(run))
    for key in ("user", "workdir", "nsm", "network"):
        if run.has(key):
            raise Rejected(
                f"run.{key} is for the kernel profile {CONTAINER}; with {profile} the program is root in / "
                "and has /dev/nsm",
                hint=f'take it out, or set [kernel] profile = "{CONTAINER}", with its fragment and init',
            )
    return None


def _payload_run(payload: Fields, top: Fields, profile: str) -> ContainerRun:
    """``[container]``: files, command, user and folder are those of the image that the lock pins."""
    if profile != CONTAINER:
        raise Rejected(f'kernel: a container image needs profile = "{CONTAINER}"')
    for name in ("run", "runtime", "wheels", "bytecode", "files"):
        if top.has(name):
            raise Rejected(f"[{name}] is not for an image of a [container], which has its own")
    return ContainerRun(nsm=bool(payload.optional("nsm", payload.boolean)), network=_network(payload))


def _network(table: Fields) -> Network:
    """``network`` of a table: two lists of texts, either of which may be left out."""
    pipes: Fields | None = table.optional("network", table.fields)
    if pipes is None:
        return NO_NETWORK
    listen, connect = (_texts(pipes, key, optional=True) for key in ("listen", "connect"))
    pipes.done()
    try:
        return parse_network(listen, connect)
    except UsageError as error:
        raise Rejected(f"{pipes.path}: {error.what}", hint=error.hint) from None


def parse_spec(text: str) -> ImageSpec:
    """The specification in the text of an image.toml. Raises UsageError."""
    try:
        return _spec(Fields(parse_toml(text.encode(), max_size=MAX_FILE), ""))
    except Rejected as error:
        raise _bad(error.what, IMAGE_FILE, error.hint) from None


def _spec(top: Fields) -> ImageSpec:
    top.exactly("format", FORMAT)
    debian, kernel, toolchain = (top.fields(name) for name in ("debian", "kernel", "toolchain"))
    payload, wheels, bytecode = (
        top.optional(name, top.fields) for name in ("container", "wheels", "bytecode")
    )
    kernel_profile = kernel.optional("profile", partial(kernel.choice, allowed=KERNEL_PROFILES)) or MINIMAL
    if payload is None:
        run, runtime = top.fields("run"), top.fields("runtime")
        container = _container_run(run, kernel_profile)
    else:
        run, runtime = Fields({}, "run"), Fields({}, "runtime")
        container = _payload_run(payload, top, kernel_profile)
    profiles = dict(_pairs(top, "profiles"))
    spec = ImageSpec(
        name=top.text("name", IMAGE_TEXT),
        release=top.text("release", IMAGE_TEXT),
        architecture=top.choice("architecture", tuple(ARCHITECTURES)),
        default_profile=top.text("default_profile", PROFILE_NAME),
        cmdline=top.text("cmdline", COMMAND_LINE, limit=MAX_FILE),
        command=_command(run, kernel_profile) if payload is None else (),
        environment=_pairs(run, "environment"),
        suites=_texts(debian, "suites", SUITE),
        component=debian.text("component", COMPONENT),
        kernel=Kernel(
            kernel.text("package", DEBIAN_NAME),
            _path(kernel, "tarball"),
            _source(kernel, "config"),
            _source(kernel, "init"),
            kernel_profile,
        ),
        toolchain=_texts(toolchain, "packages", DEBIAN_NAME),
        toolchain_links=_pairs(toolchain, "links"),
        runtime=_texts(runtime, "packages", DEBIAN_NAME, optional=payload is not None),
        directories=_paths(runtime, "directories", optional=payload is not None),
        prune=_paths(runtime, "prune", optional=True),
        wheels=(
            Wheels(
                _source(wheels, "requirements"),
                _path(wheels, "target"),
                wheels.optional("wanted", partial(_source, wheels)),
            )
            if wheels
            else None
        ),
        bytecode=(
            Bytecode(
                _path(bytecode, "interpreter"),
                _paths(bytecode, "directories", optional=True),
                _paths(bytecode, "sourceless", optional=True),
            )
            if bytecode
            else None
        ),
        files=_pairs(top, "files"),
        profile_target=_relative(profiles.pop("target", ""), "profiles.target"),
        profiles=tuple(profiles.items()),
        container=container,
        from_container=payload is not None,
    )
    for table in (top, run, debian, kernel, toolchain, runtime, wheels, bytecode, payload):
        if table:
            table.done()
    _check(spec)
    return spec


def _check(spec: ImageSpec) -> None:
    """Check the rules for single values and for several fields together. Raises Rejected, UsageError."""
    for name, _ in spec.environment:  # a name with = in it would be read as a different name
        if not VARIABLE.fullmatch(name):
            raise Rejected(f"run.environment: {shown(name)} is not the name of a variable")
    for target, source in spec.files:
        _relative(target, "files")
        _in_source(source, "files")
    for link, target in spec.toolchain_links:
        _relative(link, "toolchain.links")
        _relative(target, "toolchain.links")
    for name, source in spec.profiles:
        _in_source(source, "profiles")
        if not PROFILE_NAME.fullmatch(name):
            raise Rejected(f"profiles: {shown(name)} is not a profile name")
    if not spec.suites:
        raise Rejected("debian.suites is empty")
    if sum(glob.count(wild) for glob in spec.prune for wild in "*?[") > MAX_WILDCARDS:
        raise Rejected(f"runtime.prune has more than {MAX_WILDCARDS} wildcards")
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
