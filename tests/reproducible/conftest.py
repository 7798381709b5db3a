"""These tests build for minutes, so they are collected only when COATTEST_RUN names them, as tox does."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "reproducible" in os.environ.get("COATTEST_RUN", "").split() else ["test_*.py"]
