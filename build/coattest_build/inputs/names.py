"""The grammars of what a lock, image.toml or requirements file may say. A text that is in none goes nowhere.

Each is ASCII and bounded, so that no line feed, option, address or path hides in a name when it gets into a
path, an address, a requirements file or a command line.
"""

from __future__ import annotations

import re
import unicodedata

from coattest.files import MAX_PATH_PARTS

DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
"""A Debian package (Debian Policy 5.6.7)."""

DEBIAN_VERSION = re.compile(
    r"(?=.{1,128}\Z)(?:[0-9]{1,9}:[0-9][A-Za-z0-9.+~:-]*|[0-9][A-Za-z0-9.+~-]*)", re.ASCII
)
"""A version (Debian Policy 5.6.12): a colon only after an epoch, and a digit first."""

DEBIAN_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""An architecture as a package names it (Debian Policy 5.6.8)."""

SUITE = re.compile(r"[a-z][a-z0-9.+-]{0,63}(?:/[a-z][a-z0-9-]{0,31})?")
"""A suite or codename of an archive: bookworm, bookworm-backports, bullseye/updates."""

COMPONENT = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
"""An archive's component: main, non-free-firmware."""

POOL_PATH = re.compile(r"(?=.{1,512}\Z)pool(?:/[A-Za-z0-9+~%_][A-Za-z0-9.+~%_-]*)+\.deb")
"""A package's path in an archive; no component begins with a dot or a hyphen."""

PYTHON_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
"""A distribution of Python (PEP 508, names)."""

PYTHON_VERSION = re.compile(
    r"(?=.{1,128}\Z)v?(?:[0-9]{1,9}!)?[0-9]{1,18}(?:\.[0-9]{1,18})*"
    r"(?:[-_.]?(?:alpha|a|beta|b|preview|pre|c|rc)[-_.]?[0-9]{0,9})?"
    r"(?:-[0-9]{1,9}|[-_.]?(?:post|rev|r)[-_.]?[0-9]{0,9})?(?:[-_.]?dev[-_.]?[0-9]{0,9})?"
    r"(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.IGNORECASE | re.ASCII,
)
"""A version of a distribution of Python (PEP 440, appendix B)."""

WHEEL_FILE = re.compile(
    r"(?=.{1,255}\Z)(?P<name>[A-Za-z0-9](?:[A-Za-z0-9_.]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9_.+!]+)"
    r"(?:-[0-9][A-Za-z0-9_.]*)?(?:-[A-Za-z0-9_][A-Za-z0-9_.]*){3}\.whl"
)
"""A wheel's file name (PEP 427)."""

SHA256 = re.compile(r"[0-9a-f]{64}")

PACKAGE = {
    "name": DEBIAN_NAME,
    "version": DEBIAN_VERSION,
    "architecture": DEBIAN_ARCHITECTURE,
    "sha256": SHA256,
    "path": POOL_PATH,
}
"""The texts that a lock has of a Debian package."""

NUMBER = re.compile(r"[0-9]{1,15}")
"""A size in an index. int() alone takes signs, underscores, spaces and other scripts' digits."""

IMAGE_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""An image's name and release, which its claim and its metadata repeat."""

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
"""A variable of an environment (POSIX.1-2017, 8.1)."""

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
"""A user of an image, or a number, and optionally a group (Docker's USER)."""

COMMAND_LINE = re.compile(r"[ -~]{1,2047}")
"""A kernel's command line: printable ASCII, below x86's COMMAND_LINE_SIZE of 2048 bytes."""

PATH_MAX = 4095
NAME_MAX = 255
"""Bytes of a path and of a name in it (Linux, limits.h)."""

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control, format and lone surrogate characters and of line ends."""


def is_plain(text: str) -> bool:
    """Whether a text is not empty and is one line of characters that can be seen."""
    return bool(text) and (
        (text.isascii() and text.isprintable())
        or not any(unicodedata.category(character) in HIDDEN for character in text)
    )


def is_relative_path(text: str) -> bool:
    """Whether a text is a plain relative path: no empty part, no ``.`` or ``..``, nothing too long."""
    parts = text.split("/")
    return (
        is_plain(text)
        and len(text.encode()) <= PATH_MAX
        and len(parts) <= MAX_PATH_PARTS
        and not any(part in {"", ".", ".."} or len(part.encode()) > NAME_MAX for part in parts)
    )


def normal_name(name: str) -> str:
    """A distribution's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
