"""The local services with faults from files: ``python -m support.parent.faulty_services``.

It takes the options of ``python -m coattest_local.aws``; ``stack_faults`` describes the files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from coattest.shell import run
from coattest_local.aws.__main__ import main
from support.parent.stack_faults import FileFaults

PROGRAM = (
    "/usr/bin/env",
    f"PYTHONPATH={Path(__file__).parents[2]}",
    sys.executable,
    "-m",
    "support.parent.faulty_services",
)
"""The command that starts it, for ``coattest_local.aws.services.start``."""

if __name__ == "__main__":
    main.context_settings["obj"] = FileFaults
    run(main, "faulty-services")
