"""Systems Manager's RunCommand: SendCommand and GetCommandInvocation, with AWS-RunShellScript only.

The instances are moto's EC2 instances; ``instance`` runs the commands.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from moto.ec2.models import ec2_backends
from moto.sts.models import sts_backends

from coattest_local.aws.accounts import PARTITION, SignedCaller, caller_of, find_credential
from coattest_local.aws.http import HttpRequest, HttpResponse, ServiceError, json_answer
from coattest_local.aws.kms import keys
from coattest_local.aws.runcommand.instance import PretendedInstance, ScriptOutcome

DOCUMENT = "AWS-RunShellScript"
TARGET = "AmazonSSM."
STDOUT_MAX, STDERR_MAX = 24_000, 8_000
"""Characters that GetCommandInvocation returns (Systems Manager API Reference)."""

Handler = Callable[[HttpRequest, SignedCaller, str], HttpResponse]


@dataclass(slots=True)
class _Command:
    """A command that runs, or has ended."""

    account: str
    instance: str
    outcome: ScriptOutcome | None = None


class SsmService:
    """Answers authenticated requests to Systems Manager."""

    def __init__(
        self, folder: Path, s3: Handler, lock: threading.RLock, clock: Callable[[], datetime]
    ) -> None:
        """``folder`` has the instances' folders; ``lock`` guards moto."""
        self._folder = folder
        self._s3 = s3
        self._lock = lock
        self._clock = clock
        self._commands: dict[str, _Command] = {}

    def handle(self, request: HttpRequest, caller: SignedCaller, region: str) -> HttpResponse:
        """The answer. Raises ServiceError."""
        action = request.headers.get("x-amz-target", "").removeprefix(TARGET)
        if action not in ("SendCommand", "GetCommandInvocation"):
            raise ServiceError("UnknownOperationException", f"ssm:{action} is not emulated")
        try:
            body = json.loads(request.body)
            if action == "SendCommand":
                return json_answer(self._send(request, body, caller, region))
            return json_answer(self._invocation(request, body, caller, region))
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError("ValidationException", f"{type(error).__name__}: {error}") from None

    def _send(
        self, request: HttpRequest, body: Mapping[str, Any], caller: SignedCaller, region: str
    ) -> dict[str, Any]:
        account = caller.principal.account
        (name,) = body["InstanceIds"]
        for resource in (
            f"arn:aws:ssm:{region}::document/{body['DocumentName']}",
            f"arn:aws:ec2:{region}:{account}:instance/{name}",
        ):
            self._authorize(request, caller, region, "SendCommand", resource)
        if body["DocumentName"] != DOCUMENT:
            raise ServiceError("InvalidDocument", f"only {DOCUMENT} is emulated")
        lines = body["Parameters"]["commands"]
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise ServiceError("InvalidParameters", "commands are strings")
        instance = self._instance(name, account, region)
        identifier = str(uuid.uuid4())
        command = self._commands[identifier] = _Command(account, name)

        def work() -> None:
            command.outcome = instance.run(lines)

        threading.Thread(target=work, name=f"command {identifier}", daemon=True).start()
        return {"Command": {"CommandId": identifier, "InstanceIds": [name], "Status": "Pending"}}

    def _invocation(
        self, request: HttpRequest, body: Mapping[str, Any], caller: SignedCaller, region: str
    ) -> dict[str, Any]:
        self._authorize(request, caller, region, "GetCommandInvocation", "*")
        command = self._commands.get(body["CommandId"])
        if command is None or (command.account, command.instance) != (
            caller.principal.account,
            body["InstanceId"],
        ):
            raise ServiceError("InvocationDoesNotExist")
        answer = {"CommandId": body["CommandId"], "InstanceId": command.instance, "DocumentName": DOCUMENT}
        outcome = command.outcome
        if outcome is None:
            return {**answer, "Status": "InProgress", "StatusDetails": "InProgress"}
        status = "Failed" if outcome.code else "Success"
        return {
            **answer,
            "Status": status,
            "StatusDetails": status,
            "ResponseCode": outcome.code,
            "StandardOutputContent": outcome.stdout[:STDOUT_MAX],
            "StandardErrorContent": outcome.stderr[:STDERR_MAX],
        }

    def _instance(self, name: str, account: str, region: str) -> PretendedInstance:
        backend = ec2_backends[account][region]
        found = next((item for item in backend.all_instances() if item.id == name), None)
        profile = backend.iam_instance_profile_associations.get(name)
        if found is None or found.state != "running" or profile is None:
            raise ServiceError("InvalidInstanceId", f"Instances not in a valid state for account: {name}")
        role = profile.iam_instance_profile.roles[0].arn

        def fetch(bucket: str, key: str) -> bytes:
            """An object, with the credentials that the instance's profile gives."""
            with self._lock:
                session = sts_backends[account][PARTITION].assume_role(region, name, role, "", 3600, "")
                credential = find_credential(session.access_key_id)
                if credential is None:
                    raise OSError("no credentials of the instance's role")
                asked = HttpRequest("GET", f"/{bucket}/{key}", "", {"host": "localhost"}, b"", "127.0.0.1")
                try:
                    return self._s3(asked, caller_of(credential), region).body
                except ServiceError as error:
                    raise OSError(f"s3://{bucket}/{key}: {error}") from None

        return PretendedInstance((self._folder / name).resolve(), name, role, fetch)

    def _authorize(
        self, request: HttpRequest, caller: SignedCaller, region: str, action: str, resource: str
    ) -> None:
        answer = keys.by_own_policies(request, caller, region, f"ssm:{action}", resource, now=self._clock())
        if not answer.allowed:
            raise ServiceError(
                "AccessDeniedException",
                f"User: {caller.principal.arn} is not authorized to perform: ssm:{action} on {resource}",
            )
