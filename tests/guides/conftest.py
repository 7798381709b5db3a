"""The tutorials build three images, the README's install downloads: run only when COATTEST_RUN names them."""

from __future__ import annotations

import os

_wanted = "guides" in os.environ.get("COATTEST_RUN", "").split()
collect_ignore = [] if _wanted else ["test_guides.py", "test_install.py", "test_own_enclave.py"]
