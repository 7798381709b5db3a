"""What can be wrong with a suite or a pin: one small type each. All of them are reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """``subject`` is the suite or the input; ``contradicts`` is False for what could not be asked."""

    subject: str
    detail: str

    code: ClassVar[str] = ""
    contradicts: ClassVar[bool] = True


class NotClearSigned(Problem):
    """An InRelease file that is not exactly one clear-signed text."""

    __slots__ = ()
    code = "not-clear-signed"


class TextOutsideSignature(Problem):
    """An InRelease file with something before, after or beside the signed text."""

    __slots__ = ()
    code = "text-outside-signature"


class NoPinnedSigner(Problem):
    """No valid signature by a pinned archive key: another key, or other text."""

    __slots__ = ()
    code = "no-pinned-signer"


class BadRelease(Problem):
    """A signed text that is no Release file, or one that does not list the index."""

    __slots__ = ()
    code = "bad-release"


class OtherSuite(Problem):
    """A Release file of another suite."""

    __slots__ = ()
    code = "other-suite"


class Expired(Problem):
    """Valid-Until has passed."""

    __slots__ = ()
    code = "expired"


class FromTheFuture(Problem):
    """Dated later than the verifier's clock."""

    __slots__ = ()
    code = "from-the-future"


class OtherIndex(Problem):
    """A Packages file whose size or SHA-256 is not the signed one: changed, cut short, or mid-update."""

    __slots__ = ()
    code = "other-index"


class BadIndex(Problem):
    """A Packages file that is what was signed, and still does not unpack or parse."""

    __slots__ = ()
    code = "bad-index"


class TooLarge(Problem):
    """An answer beyond the limit for its kind."""

    __slots__ = ()
    code = "too-large"


class Unreachable(Problem):
    """No mirror answered, or none has the file."""

    __slots__ = ()
    code = "unreachable"
    contradicts = False


class NotInIndex(Problem):
    """No signed index names the package at all."""

    __slots__ = ()
    code = "not-in-index"


class OtherVersion(Problem):
    """The signed indexes name other versions only: superseded since, or never published."""

    __slots__ = ()
    code = "other-version"


class OtherArchitecture(Problem):
    """The signed index names another architecture."""

    __slots__ = ()
    code = "other-architecture"


class OtherSize(Problem):
    """The signed index names another size."""

    __slots__ = ()
    code = "other-size"


class OtherHash(Problem):
    """The index names, or serves, content of another SHA-256."""

    __slots__ = ()
    code = "other-hash"


class OtherPath(Problem):
    """The signed index names another pool path."""

    __slots__ = ()
    code = "other-path"


class OtherFile(Problem):
    """The package index has the content under another file name or size."""

    __slots__ = ()
    code = "other-file"


class NotAsked(Problem):
    """The pin was in no index that could be read, and not all could be read."""

    __slots__ = ()
    code = "not-asked"
    contradicts = False
