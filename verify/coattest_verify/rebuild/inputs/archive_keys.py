"""The archive keys that a suite must be signed by, pinned in the tool.

Source: Debian package debian-archive-keyring 2023.3+deb12u2, its files debian-archive-bookworm-automatic.gpg
and debian-archive-bookworm-stable.gpg; the archive's team publishes the fingerprints on its web page too.
Only the keys of the suites that image.toml may name are here; the security archive's are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING

from coattest.errors import EnvironmentFailure
from coattest.extras import need_extra

if TYPE_CHECKING:
    from pysequoia import Cert

BOOKWORM: Mapping[str, str] = {
    "b8b80b5b623eab6ad8775c45b7c5d7d6350947f8": "bookworm-automatic.asc",
    "4d64fec119c2029067d6e791f8d2585b8783d481": "bookworm-stable.asc",
}
"""Fingerprints of the primary keys, and the files that carry them.

Debian Archive Automatic Signing Key (12/bookworm), Debian Stable Release Key (12/bookworm)."""


def bookworm() -> tuple[Cert, ...]:
    """The pinned certificates. Raises EnvironmentFailure (``bad-keyring``) when a file has a wrong key."""
    need_extra("build")
    from pysequoia import Cert  # noqa: PLC0415 - only `verify inputs` needs it

    certificates = []
    for fingerprint, name in BOOKWORM.items():
        data = resources.files("coattest_verify.rebuild.inputs").joinpath("keys").joinpath(name).read_bytes()
        certificate = Cert.from_bytes(data)
        if certificate.fingerprint != fingerprint:
            raise EnvironmentFailure(
                "not the pinned key", where=name, hint="install coattest again", code="bad-keyring"
            )
        certificates.append(certificate)
    return tuple(certificates)
