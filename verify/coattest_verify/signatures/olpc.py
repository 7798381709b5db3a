"""OLPC's canonical JSON, on which in-toto's key ids and classic signatures are based.

securesystemslib's ``encode_canonical`` (securesystemslib 1.6, formats.py) in the few lines that a verifier
needs; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def encode_olpc(value: Any) -> bytes:
    """Sorted names, no spaces, only quote and backslash escaped, UTF-8. Raises TypeError for other types."""
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"'))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(name)}:{_text(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no canonical form")
