"""Commands on the parent instance, through Systems Manager's RunCommand (the document AWS-RunShellScript).

A script is a list of argument lists. Each becomes one line, every word of it quoted for the shell, and the
first that fails ends the script. What comes back is text of a limited length, believed by nobody.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import EnvironmentFailure, UsageError

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_ssm.type_defs import GetCommandInvocationResultTypeDef

DOCUMENT = "AWS-RunShellScript"

OUTPUT_MAX = 24_000
"""Characters of standard output that GetCommandInvocation returns (Systems Manager API Reference)."""

AGENT_SECONDS = 600
"""Until a new instance's agent reports: boot and registration take one to three minutes."""

DELIVERY_SECONDS = 60
"""Until the agent has taken a command (SendCommand, TimeoutSeconds: at least 30)."""

POLL_SECONDS = 1.0

WORD = re.compile(r"[A-Za-z0-9@%_+=:,./\\ -]{1,1024}", re.ASCII)
"""Characters that a word of a command may have; none of them ends a quoted word, or a line."""

TO = ">"
"""As the last word but one: the last word is the file that takes the output."""

WAITING = frozenset({"Pending", "InProgress", "Delayed", "Cancelling"})


class CommandFailed(EnvironmentFailure):
    """A command on the instance failed, or did not end in time."""

    default_code = "instance-command"


def script(commands: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a script. Raises UsageError for a word with another character than WORD has."""
    return ["set -eu", *(_line(command) for command in commands)]


def _line(command: Sequence[str]) -> str:
    words = list(command)
    for word in words:
        if word != TO and not WORD.fullmatch(word):
            raise UsageError(f"{word[:80]!r} is no word for a command", where=words[0][:80], code="bad-word")
    if len(words) > 2 and words[-2] == TO:
        return f"{shlex.join(words[:-2])} {TO} {shlex.quote(words[-1])}"
    return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance whose agent takes commands."""

    client: SSMClient
    id: str
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def run(self, commands: Sequence[Sequence[str]], seconds: float, what: str) -> str:
        """Run a script and return its output; ``what`` names it in errors, ``seconds`` is its time-out.

        Raises CommandFailed and AwsFailure. A script that the agent never took has not run.
        """
        command = self._send(script(commands), seconds, what)
        deadline = self.clock() + DELIVERY_SECONDS + seconds + 30
        found = None
        while found is None or found["Status"] in WAITING:
            if self.clock() > deadline:
                raise CommandFailed(f"{what}: no answer in {seconds:.0f} s", where=self.id)
            found = self._invocation(command, what)
            if found is None or found["Status"] in WAITING:
                self.sleep(POLL_SECONDS)
        if found["Status"] != "Success":
            said = " ".join(found["StandardErrorContent"].split())[-300:]
            raise CommandFailed(
                f"{what}: {found['StatusDetails']}: {said or 'it said nothing'}", where=self.id
            )
        output = found["StandardOutputContent"]
        if len(output) >= OUTPUT_MAX:
            raise CommandFailed(f"{what}: an answer of more than {OUTPUT_MAX} characters", where=self.id)
        return output

    def _invocation(self, command: str, what: str) -> GetCommandInvocationResultTypeDef | None:
        """How a command is; None while the service does not know it yet."""
        try:
            with aws_errors(what):
                return self.client.get_command_invocation(CommandId=command, InstanceId=self.id)
        except AwsFailure as error:
            if error.code != "InvocationDoesNotExist":
                raise
            return None

    def _send(self, lines: list[str], seconds: float, what: str) -> str:
        """The command's id; waits for the agent of an instance that has just been made."""
        deadline = self.clock() + AGENT_SECONDS
        while True:
            try:
                with aws_errors(self.id):
                    answer = self.client.send_command(
                        InstanceIds=[self.id],
                        DocumentName=DOCUMENT,
                        Comment=f"coattest: {what}"[:100],
                        TimeoutSeconds=DELIVERY_SECONDS,
                        Parameters={"commands": lines, "executionTimeout": [str(int(seconds))]},
                    )
            except AwsFailure as error:
                if error.code != "InvalidInstanceId" or self.clock() > deadline:
                    raise
                self.sleep(POLL_SECONDS)
            else:
                return str(answer["Command"].get("CommandId"))
