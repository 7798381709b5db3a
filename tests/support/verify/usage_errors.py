"""A wrong argument of the library is a UsageError with a code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from coattest.errors import UsageError


@contextlib.contextmanager
def usage_error(code: str, match: str | None = None) -> Iterator[None]:
    """The block must raise a UsageError with this code (and a message that matches)."""
    with pytest.raises(UsageError, match=match) as caught:
        yield
    assert caught.value.code == code
