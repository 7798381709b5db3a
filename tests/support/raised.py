"""Errors by their code: a class of the four shared ones says who is to blame, the code says what is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from coattest.errors import CoattestError


@contextlib.contextmanager
def raises_code(
    kind: type[CoattestError], code: str, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[CoattestError]]:
    """As ``pytest.raises(kind, match=match)``, and the error must carry ``code``."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert caught.value.code == code
