"""An error and its code in one expectation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from coattest.errors import CoattestError


@contextlib.contextmanager
def raises_code(
    kind: type[CoattestError], *codes: str, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[CoattestError]]:
    """Expect an error of this class with one of the codes; ``match`` is searched for in its line."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert caught.value.code in codes
