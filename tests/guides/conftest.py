"""The tutorials build three images, the README's install downloads: run only when COATTEST_RUN names them."""

from __future__ import annotations

from support.only_in import runs_in

collect_ignore = [] if runs_in("guides") else ["test_guides.py", "test_install.py", "test_own_enclave.py"]
