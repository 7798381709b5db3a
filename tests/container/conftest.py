"""The route itself needs buildah and minutes: collected only when COATTEST_RUN names it, as tox does."""

from __future__ import annotations

import os

_wanted = "container" in os.environ.get("COATTEST_RUN", "").split()
collect_ignore = [] if _wanted else ["test_container_route.py"]
