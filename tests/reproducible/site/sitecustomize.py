"""Imported by Python at its start when this folder is on PYTHONPATH: shuffled folders, another zlib."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

if os.environ.get("COATTEST_TEST_SHUFFLE"):
    _random = random.Random(os.environ["COATTEST_TEST_SHUFFLE"])
    _listdir, _scandir = os.listdir, os.scandir

    class _Shuffled:
        """What os.scandir returns, with its entries in another order."""

        def __init__(self, path: Any) -> None:
            with _scandir(path) as entries:
                listed = list(entries)
            _random.shuffle(listed)
            self._entries = iter(listed)

        def __iter__(self) -> _Shuffled:
            return self

        def __next__(self) -> Any:
            return next(self._entries)

        def __enter__(self) -> _Shuffled:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def close(self) -> None:
            """Nothing is open."""

    def _shuffled_names(path: Any = ".") -> list[Any]:
        names = _listdir(path)
        _random.shuffle(names)
        return names

    os.scandir = lambda path=".": _Shuffled(path)  # type: ignore[assignment,misc]
    os.listdir = _shuffled_names  # type: ignore[assignment]

if os.environ.get("COATTEST_TEST_ZLIB_NG"):
    from zlib_ng import zlib_ng

    sys.modules["zlib"] = zlib_ng
