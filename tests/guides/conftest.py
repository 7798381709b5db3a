"""The tutorials build three images: they are run only when COATTEST_RUN names them, as tox does."""

from __future__ import annotations

import os

_wanted = "guides" in os.environ.get("COATTEST_RUN", "").split()
collect_ignore = [] if _wanted else ["test_guides.py", "test_own_enclave.py"]
