"""The optional parts of an installation, and the one line that says which of them a command lacks."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from coattest.errors import EnvironmentFailure

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "in-toto": ("in_toto", "securesystemslib"),
        "build": ("packaging", "pysequoia"),
        "aws": ("boto3", "botocore", "packaging", "securesystemslib"),
        "local": ("moto", "werkzeug", "boto3", "botocore", "dulwich", "packaging", "pysequoia"),
        "pkcs11": ("asn1crypto", "pkcs11", "securesystemslib"),
        "prove": ("z3",),
    }
)
"""Each extra of pyproject.toml, and the modules that it brings."""

_EXTRA_OF = {module: extra for extra in reversed(tuple(EXTRAS)) for module in EXTRAS[extra]}
_SIGNERS = {"awskms": "aws", "hsm": "pkcs11"}


def need_extra(extra: str) -> None:
    """Check that every module of an extra is installed, without importing it. Raises EnvironmentFailure."""
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise _failure(module, extra)


def need_signer(uri: str) -> None:
    """Check that the libraries of a remote signer (``awskms:``, ``hsm:``) are installed.

    Raises EnvironmentFailure. Of schemes without an extra (``gcpkms:``) only securesystemslib is checked
    here; it reports itself what else it needs.
    """
    need_extra(_SIGNERS.get(uri.partition(":")[0], "in-toto"))


def missing_extra(error: ModuleNotFoundError) -> EnvironmentFailure | None:
    """The failure to report for an import that found no module; None when no extra brings that module."""
    module = (error.name or "").partition(".")[0]
    return _failure(module, _EXTRA_OF[module]) if module in _EXTRA_OF else None


def _failure(module: str, extra: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{module} is not installed: this needs the extra '{extra}'",
        hint=f"install it again from the same URL and commit, with [{extra}] after the name",
        code="missing-extra",
    )
