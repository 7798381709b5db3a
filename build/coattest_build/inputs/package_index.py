"""Downloads wheels from the package index of the user's choice with pip, which reads no configuration.

Which index that is stands where pip's own users write it: in the environment, in the user's and in the
system's pip.conf. Of those a few settings are read here, each with a grammar; pip is told them in the
requirements file, and starts with an empty environment and without configuration. The pip.conf of the
interpreter's own folder is not read.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import UsageError
from coattest.files import read_bounded
from coattest.programs.environment import program_environment, python_program
from coattest.programs.start import EndedProgram, ProgramLimits, run_program

TARGET = (
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
    *(f"--platform=manylinux_2_{minor}_x86_64" for minor in (36, 35, 34, 31, 28, 24, 17, 12, 5)),
    "--platform=manylinux2014_x86_64",
)
"""pip's options for the image's interpreter and C library (Debian bookworm: CPython 3.11, glibc 2.36)."""

FIXED = (
    *("--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--quiet"),
    *("--only-binary=:all:", "--timeout=60"),
)
"""What pip may not do: build anything, ask, use a cache, read its configuration.

A wheel may say that it needs what is at an address: pip builds that in spite of ``--only-binary``, with
programs of its own. So it starts none (``alone``).
"""

PINNED = ("--no-deps", "--require-hashes")
"""What it may not do for a lock that is there: fetch what has no hash."""

NETWORK = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""Variables that say how this machine reaches the network."""

MEMORY = 1024 * 1024 * 1024
"""Bytes that pip may take; it holds a page of the index several times, and the largest there have 30 MB."""
LIMITS = ProgramLimits(seconds=900, memory=MEMORY)
MAX_CONFIGURATION = 64 * 1024
"""Bytes of a pip.conf."""

# No quotes, backslashes or $: pip splits an option's line as a shell does, and puts variables in.
_ADDRESS = re.compile(r"(?:https?|file)://[A-Za-z0-9._~:/?#\[\]@!&()*+,;=%-]{1,1000}")
_FOLDER = re.compile(r"/[A-Za-z0-9._~:@+,=%/-]{1,1000}")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")
_ON = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Where pip looks: ``lines`` of a requirements file, and the CA certificates for the way there."""

    lines: tuple[str, ...] = ()
    certificates: str | None = None


@dataclass(frozen=True, slots=True)
class WantedWheel:
    """A wheel to download. Name, version and hashes follow their grammars: they come from a parsed file."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def line(self) -> str:
        """Its line in a requirements file."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{each}" for each in self.hashes)])


def download_wheels(
    wanted: Sequence[WantedWheel], folder: Path, scratch: Path, *, limits: ProgramLimits = LIMITS
) -> EndedProgram:
    """Let pip put the wheels into ``folder``; ``scratch`` is a private folder for the requirements file.

    Raises EnvironmentFailure: ``no-program`` without pip, ``program-time`` and ``program-output``; UsageError
    (``bad-pip-setting``) for a setting that follows no grammar.
    """
    return _download([wheel.line for wheel in wanted], folder, scratch, PINNED, limits=limits)


def choose_wheels(
    requirements: Sequence[str], constraints: Sequence[str], folder: Path, scratch: Path
) -> EndedProgram:
    """Let pip choose the versions and put the wheels with all that they need into ``folder``.

    The lines follow a grammar that has no options. Raises as ``download_wheels``.
    """
    (scratch / "constraints.txt").write_text("".join(f"{line}\n" for line in constraints))
    options = ["--constraint", str((scratch / "constraints.txt").absolute())]
    return _download(requirements, folder, scratch, options, limits=LIMITS)


def _download(
    lines: Sequence[str], folder: Path, scratch: Path, more: Sequence[str], *, limits: ProgramLimits
) -> EndedProgram:
    settings = index_settings(os.environ)
    listing = scratch / "requirements.txt"
    listing.write_text("\n".join([*settings.lines, *lines]) + "\n")
    options = ["--cert", settings.certificates] if settings.certificates else []
    command = python_program(
        *("pip", "download", *FIXED, *TARGET, *options, *more),
        *("--dest", str(folder.absolute()), "--requirement", str(listing.absolute())),
        alone=True,
    )
    nothing = {"PIP_CONFIG_FILE": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    return run_program(command, environment=program_environment(NETWORK, nothing), limits=limits)


def index_settings(environment: Mapping[str, str]) -> IndexSettings:
    """What the user's configuration of pip says about the index, the last one that says it winning.

    Raises UsageError (``bad-pip-setting``).
    """
    found: dict[str, tuple[str, str]] = {}
    for path in _files(environment):
        found |= {key: (value, str(path)) for key, value in _read(path)}
    for name, value in environment.items():
        if name.startswith("PIP_") and value:
            found[name[4:].lower().replace("_", "-")] = (value, name)
    lines = []
    for key, grammars in (
        ("index-url", (_ADDRESS,)),
        ("extra-index-url", (_ADDRESS,)),
        ("find-links", (_ADDRESS, _FOLDER)),
        ("trusted-host", (_HOST,)),
    ):
        lines += [f"--{key} {value}" for value in _values(found, key, grammars)]
    if found.get("no-index", ("", ""))[0].lower() in _ON:
        lines.append("--no-index")
    certificates = _values(found, "cert", (_FOLDER,))
    return IndexSettings(tuple(lines), certificates[-1] if certificates else None)


def _values(
    found: Mapping[str, tuple[str, str]], key: str, grammars: Sequence[re.Pattern[str]]
) -> tuple[str, ...]:
    text, where = found.get(key, ("", ""))
    values = tuple(text.split())
    if any(not any(grammar.fullmatch(value) for grammar in grammars) for value in values):
        raise UsageError(
            f"pip's {key} is not an address, an absolute path or a host that coattest passes on",
            where=where,
            code="bad-pip-setting",
        )
    return values


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    """pip's configuration files but the interpreter's own, the system's first (pip, "Configuration")."""
    system = environment.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    names = [f"{folder}/pip/pip.conf" for folder in system.split(os.pathsep)]
    names.append("/etc/pip.conf")
    if home := environment.get("HOME"):
        names.append(f"{home}/.pip/pip.conf")
        names.append(f"{environment.get('XDG_CONFIG_HOME') or f'{home}/.config'}/pip/pip.conf")
    names.append(environment.get("PIP_CONFIG_FILE", ""))
    if names[-1] == os.devnull:  # pip's own way to say that there is no configuration
        return
    yield from (path for name in names if (path := Path(name)).is_absolute() and path.is_file())


def _read(path: Path) -> Iterator[tuple[str, str]]:
    """The settings of a file: those of [global], then those of [download]."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(read_bounded(path, MAX_CONFIGURATION).decode())
    except (OSError, ValueError, configparser.Error):
        raise UsageError(
            "cannot be read as pip's configuration", where=str(path), code="bad-pip-setting"
        ) from None
    for section in ("global", "download"):
        if parser.has_section(section):
            yield from ((key.replace("_", "-"), value) for key, value in parser.items(section))
