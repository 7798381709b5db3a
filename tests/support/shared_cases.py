"""Cases and vectors that lie beside the repository, in its sibling folder ``shared``."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.source_tree import ROOT


def shared_folder(name: str) -> Path:
    """A folder of ``../shared``; skips the test, saying so, where it is absent."""
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the shared cases are not on this machine")
    return folder
