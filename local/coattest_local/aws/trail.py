"""Events in CloudTrail's form, one JSON document a line.

Source: KMS Developer Guide, "Logging AWS KMS API calls with AWS CloudTrail" and "Monitoring requests for
Nitro enclaves": additionalEventData.recipient holds the module id and, in base64, PCR0 as the image digest
and PCR1, 2, 3, 4 and 8. Keys and ciphertexts are never part of an event.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest_local.aws.accounts import SignedCaller
from coattest_local.aws.http import ServiceError
from coattest_local.aws.kms.call import Call
from coattest_verify.attestation import Document

_REGISTERS = (1, 2, 3, 4, 8)

READ_ONLY = ("Decrypt", "Describe", "Encrypt", "Generate", "Get", "List", "ReEncrypt")
"""How the names of operations begin that change nothing."""


class Trail:
    """Appends events to a file; each is flushed before the answer goes out."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8")

    def record(self, call: Call, error: ServiceError | None = None) -> None:
        """Write one event of KMS, once for each account that is concerned: the caller's and the keys'."""
        caller = call.caller
        account = caller.principal.account
        recipients = sorted({account, *(key.owner for key in call.touched)})
        event: dict[str, Any] = {
            "eventVersion": "1.11",
            "userIdentity": None,
            "eventTime": self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": "kms.amazonaws.com",
            "eventName": call.name,
            "awsRegion": caller.arrival.region,
            "sourceIPAddress": caller.arrival.source,
            "userAgent": "coattest simulator",
            "requestParameters": _shown(call.parameters),
            "responseElements": None,
            "requestID": str(uuid.uuid4()),
            "eventID": str(uuid.uuid4()),
            "readOnly": call.name.startswith(READ_ONLY),
            "resources": [
                {"accountId": key.owner, "type": "AWS::KMS::Key", "ARN": key.arn} for key in call.touched
            ],
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "eventCategory": "Management",
        }
        if error is not None:
            code = "AccessDenied" if error.code == "AccessDeniedException" else error.code
            event |= {"errorCode": code, "errorMessage": error.message}
        if call.verified is not None:
            event["additionalEventData"] = {"recipient": _recipient_fields(call.verified.document)}
        if len(recipients) > 1:
            event["sharedEventID"] = str(uuid.uuid4())
        with self._lock:
            for account in recipients:
                event |= {"recipientAccountId": account, "eventID": str(uuid.uuid4())}
                event["userIdentity"] = _identity(caller, account)
                self._file.write(json.dumps(event) + "\n")
            self._file.flush()


def _recipient_fields(document: Document) -> dict[str, str]:
    """The fields that KMS records of an attestation document."""
    fields = {"attestationDocumentModuleId": document.module_id}
    if 0 in document.pcrs:
        fields["attestationDocumentEnclaveImageDigest"] = base64.b64encode(document.pcrs[0]).decode()
    for index in _REGISTERS:
        if index in document.pcrs:
            fields[f"attestationDocumentEnclavePCR{index}"] = base64.b64encode(document.pcrs[index]).decode()
    return fields


def _identity(caller: SignedCaller, account: str) -> dict[str, Any]:
    """The caller as ``account`` sees it: of another account's only the account and the unique id.

    Source: CloudTrail User Guide, "userIdentity element" (type AWSAccount).
    """
    principal = caller.principal
    if account != principal.account:
        return {"type": "AWSAccount", "principalId": caller.user_id, "accountId": principal.account}
    identity: dict[str, Any] = {
        "type": caller.kind,
        "principalId": caller.user_id,
        "arn": principal.arn,
        "accountId": principal.account,
        "accessKeyId": caller.access_key,
    }
    if caller.kind == "IAMUser":
        identity["userName"] = caller.name
    else:
        identity["sessionContext"] = {
            "sessionIssuer": {
                "type": "Role",
                "principalId": principal.unique_id,
                "arn": principal.role_arn,
                "accountId": principal.account,
                "userName": (principal.role_arn or "").rsplit("/", 1)[-1],
            }
        }
    return identity


def _shown(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What CloudTrail shows of the parameters: no plaintext, no ciphertext, no attestation document."""
    hidden = {"CiphertextBlob", "Plaintext", "Recipient", "Message", "GrantTokens"}
    return {
        name[0].lower() + name[1:]: value for name, value in parameters.items() if name and name not in hidden
    }
