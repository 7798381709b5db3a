"""What names an image in a registry, by digest only: ``docker://HOST/NAME@sha256:..``, as for skopeo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import UsageError

SCHEME = "docker://"
_HOST = re.compile(r"(?=[^:]*[.:]|localhost)(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}(?::[1-9][0-9]{0,4})?")
"""A name or an address of IPv4, and a port; with a dot, so that it is none of Docker's short names."""
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
"""OCI distribution-spec 1.1, "Pulling manifests"."""
MAX_NAME = 255
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
DOCKER_HUB = ("docker.io", "registry-1.docker.io")
"""The name that people write, and the host that answers."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry. ``sha256`` (hex) is the digest of its manifest, or of an index of several."""

    host: str
    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.host}/{self.name}@sha256:{self.sha256}"


ImagePlace = Path | Reference
"""Where a container image is."""


def parse_reference(text: str) -> Reference:
    """The image that ``docker://HOST/NAME@sha256:..`` names. Raises UsageError (``bad-address``)."""
    host, _, rest = text.removeprefix(SCHEME).partition("/")
    name, _, digest = rest.partition("@")
    found = _DIGEST.fullmatch(digest)
    if not (_HOST.fullmatch(host) and _NAME.fullmatch(name) and len(name) <= MAX_NAME and found):
        raise UsageError(
            "not an image of a registry by its digest",
            where=text[:200],
            hint="docker://HOST/NAME@sha256:.., with the host and without a tag: `skopeo inspect` shows a "
            "tag's digest",
            code="bad-address",
        )
    if host == DOCKER_HUB[0]:
        return Reference(DOCKER_HUB[1], name if "/" in name else f"library/{name}", found[1])
    return Reference(host, name, found[1])
