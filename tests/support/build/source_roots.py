"""Where Python finds the builder and what it imports, for interpreters that know nothing of this checkout."""

from __future__ import annotations

import os
from pathlib import Path

import coattest
import coattest_build

PACKAGES = tuple(Path(module.__path__[0]) for module in (coattest, coattest_build))
"""The folders of the packages that the builder consists of."""
ROOTS = tuple(package.parent for package in PACKAGES)
"""The folders that hold them."""
PYTHONPATH = os.pathsep.join(map(str, ROOTS))
"""The environment variable's value."""
