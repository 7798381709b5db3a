"""deploy-from-attestation in a process that kills itself with SIGKILL after its N-th change; 0 is never.

The arguments are ``N VERB ..``. A change is a call of AWS that makes, changes or deletes something.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from botocore.client import BaseClient

from coattest_parent.cli.deploy import main

CHANGES = frozenset(
    {
        "CreateChangeSet",
        "ExecuteChangeSet",
        "PutObject",
        "SignalResource",
        "DeleteStack",
        "DeleteObject",
        "DeleteBucket",
    }
)
_left = 0


def _step() -> None:
    global _left  # noqa: PLW0603 - a process has one number of steps
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


class _Killed:
    """The method with a step after it."""

    make = BaseClient._make_api_call

    @staticmethod
    def api(client: Any, operation: str, parameters: Any) -> Any:
        answer = _Killed.make(client, operation, parameters)
        if operation in CHANGES:
            _step()
        return answer


def killed() -> None:
    """The command of ``sys.argv``, whose first word is N."""
    global _left  # noqa: PLW0603 - as above
    _left = int(sys.argv.pop(1))
    BaseClient._make_api_call = _Killed.api
    main()
