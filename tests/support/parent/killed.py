"""deploy-from-attestation in a process that kills itself with SIGKILL after its N-th change; 0 is never.

The arguments are ``N VERB ..``. A change is a call of AWS that makes something, an enclave's
start or its end; the latter two count before and after.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from botocore.client import BaseClient

from coattest_parent.cli.deploy import main
from coattest_parent.deployment.runner import LocalRunner

CHANGES = frozenset({"CreateChangeSet", "ExecuteChangeSet", "PutObject"})
_left = 0


def _step() -> None:
    global _left  # noqa: PLW0603 - a process has one number of steps
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


class _Killed:
    """The two methods with steps around them."""

    make = BaseClient._make_api_call
    call = LocalRunner._call

    @staticmethod
    def api(client: Any, operation: str, parameters: Any) -> Any:
        answer = _Killed.make(client, operation, parameters)
        if operation in CHANGES:
            _step()
        return answer

    @staticmethod
    def runner(runner: LocalRunner, timeout: float, verb: str, *arguments: str) -> None:
        _step()
        _Killed.call(runner, timeout, verb, *arguments)
        _step()


def killed() -> None:
    """The command of ``sys.argv``, whose first word is N."""
    global _left  # noqa: PLW0603 - as above
    _left = int(sys.argv.pop(1))
    BaseClient._make_api_call = _Killed.api
    LocalRunner._call = _Killed.runner  # type: ignore[method-assign]
    main()
