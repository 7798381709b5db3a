"""The route itself needs buildah and minutes: collected only when COATTEST_RUN names it, as tox does."""

from __future__ import annotations

from support.only_in import runs_in

collect_ignore = [] if runs_in("container") else ["test_container_route.py"]
