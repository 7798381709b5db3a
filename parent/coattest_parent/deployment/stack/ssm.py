"""Commands on the parent instance, through Systems Manager's RunCommand (the document AWS-RunShellScript).

A script is a list of argument lists. Each becomes one line, every word of it quoted for the shell, and the
first that fails ends the script. The output is text of limited length, and is not trusted.
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
"""The Systems Manager document that runs the lines of a script as root."""

OUTPUT_MAX = 24_000
"""Characters of standard output that GetCommandInvocation returns (Systems Manager API Reference)."""

AGENT_SECONDS = 600
"""Seconds until a new instance's agent reports: boot and registration take one to three minutes."""

DELIVERY_SECONDS = 60
"""Seconds until the agent has taken a command (SendCommand, TimeoutSeconds: at least 30)."""

POLL_SECONDS = 1.0
"""Seconds between two polls of a command."""

WORD = re.compile(r"[A-Za-z0-9@%_+=:,./\\ -]{1,1024}", re.ASCII)
"""What a word of a command may be; no character of it ends a quoted word or a line."""

TO = ">"
"""As the last word but one: redirects the output to the file that the last word names."""

WAITING = frozenset({"Pending", "InProgress", "Delayed", "Cancelling"})
"""Status of a command that has not ended (Systems Manager API Reference, GetCommandInvocation)."""


def script(commands: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a script. Raises UsageError (bad-word) for a word that WORD does not match."""
    return ["set -eu", *(_line(command) for command in commands)]


def _line(command: Sequence[str]) -> str:
    words = list(command)
    for word in words:
        if word != TO and not WORD.fullmatch(word):
            raise UsageError(
                f"{word[:80]!r} has characters that a command may not have",
                where=words[0][:80],
                code="bad-word",
            )
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

        Raises EnvironmentFailure (instance-command) and AwsFailure. A script that the agent never took has
        not run.
        """
        command = self._send(script(commands), seconds, what)
        deadline = self.clock() + DELIVERY_SECONDS + seconds + 30
        found = None
        while found is None or found["Status"] in WAITING:
            if self.clock() > deadline:
                raise self._failed(f"{what}: no answer in {seconds:.0f} s")
            found = self._invocation(command, what)
            if found is None or found["Status"] in WAITING:
                self.sleep(POLL_SECONDS)
        if found["Status"] != "Success":
            said = " ".join(found["StandardErrorContent"].split())[-300:]
            raise self._failed(f"{what}: {found['StatusDetails']}: {said or 'no output'}")
        output = found["StandardOutputContent"]
        if len(output) >= OUTPUT_MAX:
            raise self._failed(f"{what}: an answer of more than {OUTPUT_MAX} characters")
        return output

    def _failed(self, what: str) -> EnvironmentFailure:
        return EnvironmentFailure(what, where=self.id, code="instance-command")

    def _invocation(self, command: str, what: str) -> GetCommandInvocationResultTypeDef | None:
        """The state of a command; None while the service does not know it yet."""
        try:
            with aws_errors(what):
                return self.client.get_command_invocation(CommandId=command, InstanceId=self.id)
        except AwsFailure as error:
            if error.service_code != "InvocationDoesNotExist":
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
                if error.service_code != "InvalidInstanceId" or self.clock() > deadline:
                    raise
                self.sleep(POLL_SECONDS)
            else:
                return str(answer["Command"].get("CommandId"))
