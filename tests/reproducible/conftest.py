"""These tests build for minutes, so they are collected only when COATTEST_RUN names them, as tox does."""

from __future__ import annotations

from support.only_in import runs_in

collect_ignore_glob = [] if runs_in("reproducible") else ["test_*.py"]
