"""Where a test makes AWS fail: the services ask here, and by default nothing fails.

Stacks and change sets are moto's objects. Tests have a subclass (tests/support/parent/stack_faults.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coattest_parent.deployment.runner import LocalRunner


class Faults:
    """No faults. A subclass answers otherwise.

    ``document_seconds`` are those from one document of an instance to the next (coattest-live.service),
    ``dead_seconds`` those from its last words to its end (dead.sh).
    """

    document_seconds = 60.0
    dead_seconds = 600.0

    def throttled(self, service: str, action: str) -> bool:
        """Whether this request is refused because there are too many."""
        return False

    def no_capacity(self, group: str) -> str | None:
        """Why EC2 launches no instance for the group now."""
        return None

    def launcher(self, group: str, folder: Path) -> LocalRunner:
        """What starts the enclaves of a group's instances; a lying one starts something else."""
        return LocalRunner(folder)

    def busy(self, stack: Any) -> str | None:
        """The status of somebody else's operation on the stack, while one is in progress."""
        return None

    def looked(self, stack: Any) -> None:
        """Called when a busy stack was described."""

    def execute(self, change_set: Any, *, keep: bool) -> Callable[[], None]:
        """Called before a change set is executed; returns what is called after moto has executed it. ``keep``
        is whether what the template retains stays when its creation fails.
        """
        return _nothing

    def continue_rollback(self, stack: Any) -> None:
        """Go on with a roll-back that failed; without faults none ever does."""

    def stays(self, stack: Any) -> bool:
        """Whether the stack cannot be deleted; if so, its status says so now."""
        return False


def _nothing() -> None:
    """Let the change stand."""
