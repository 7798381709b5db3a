"""A report of how an image did on one machine's hardware: signed where it ran, judged again anywhere. Pure.

AWS vouches for the documents: registers, instance and time. Instance type, kernel, nitro-cli's version,
console and the outcomes of the checks are the signer's word. A report of the simulator says that it is one,
and never counts as hardware.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from coattest.errors import Rejected, UsageError
from coattest.findings import Finding
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.attestation import ExpectNonce, ExpectPcrs, MaxAge, verify_document
from coattest_verify.attestation.measurements import missing_registers
from coattest_verify.attestation.profiles import root_for
from coattest_verify.fleet.live import alive_expectations
from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from coattest_verify.signatures.keys import PublicKey, Signer

REPORT_TYPE = "application/vnd.coattest.hardware-report+json"
"""DSSE payload type."""

FORMAT = "coattest-hardware/v1"

REPORT_MAX = 512 * 1024
"""Bytes of a report: three documents of 5 kB, and a console."""

CONSOLE_MAX = 64 * 1024
"""Characters of a console: a boot says some 20,000."""

TEXT_MAX = 1024
DOCUMENTS_MAX = 16
REGISTERS_MAX = 32
TIME_MAX = 4_102_444_800_000
"""Milliseconds since 1970 to 2100."""

SKEW_MS = 60_000
"""Milliseconds by which the module's clock and the machine's may differ."""

CHECKS = ("document", "clock", "connections", "both directions", "still alive")
"""What is looked at, in this order; a report without one of them shows nothing."""

MACHINE = ("architecture", "instance", "instance-type", "kernel", "nitro-cli")
"""What a report says of the machine; a text for each."""


@dataclass(frozen=True, slots=True)
class SmokeCheck:
    """One check and its outcome; ``detail`` is a figure, or why it failed, ``ms`` how long it took.

    ``documents`` are those that the enclave gave, each with the nonce that it was asked over.
    """

    name: str
    ok: bool
    detail: str
    ms: int
    documents: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class HardwareReport:
    """What happened on one machine. Times are milliseconds since 1970; registers are bytes by index."""

    simulator: bool
    began: int
    ended: int
    machine: Mapping[str, str]
    registers: Mapping[int, bytes]
    checks: tuple[SmokeCheck, ...]
    console: str

    def to_json(self) -> dict[str, Any]:
        """The signed content."""
        return {
            "format": FORMAT,
            "simulator": self.simulator,
            "began": self.began,
            "ended": self.ended,
            "machine": dict(self.machine),
            "registers": {str(index): value.hex() for index, value in self.registers.items()},
            "checks": [
                {
                    "name": check.name,
                    "ok": check.ok,
                    "detail": check.detail[:TEXT_MAX],
                    "ms": check.ms,
                    "documents": [[each.hex(), _base64(document)] for each, document in check.documents],
                }
                for check in self.checks
            ],
            **({"console": self.console[:CONSOLE_MAX]} if self.console else {}),
        }


def sign_hardware(signer: Signer, report: HardwareReport) -> bytes:
    """DSSE JSON of the report."""
    return sign_envelope(signer, REPORT_TYPE, canonical(report.to_json())).encode()


def read_hardware(content: bytes, keys: Sequence[PublicKey]) -> HardwareReport:
    """The report in ``content``, signed by one of the keys. Raises Rejected (hardware-report)."""
    try:
        envelope = DsseEnvelope.decode(content, REPORT_TYPE, max_size=REPORT_MAX)
        if not envelope.signers(keys):
            raise Rejected("not signed by one of the keys")
        fields = Fields(parse(envelope.payload, max_size=REPORT_MAX), "")
        fields.exactly("format", FORMAT)
        machine = fields.fields("machine")
        registers = fields.mapping("registers", high=REGISTERS_MAX)
        report = HardwareReport(
            simulator=fields.boolean("simulator"),
            began=fields.integer("began", high=TIME_MAX),
            ended=fields.integer("ended", high=TIME_MAX),
            machine={name: machine.text(name, limit=TEXT_MAX) for name in MACHINE},
            registers={int(index): bytes.fromhex(value) for index, value in registers.items()},
            checks=tuple(map(_check, fields.items("checks", high=len(CHECKS)))),
            console=fields.text("console", limit=CONSOLE_MAX) if fields.has("console") else "",
        )
        machine.done()
        fields.done()
        ExpectPcrs(report.registers)
        if (missing := missing_registers(report.registers, (0, 1, 2))) is not None:
            raise Rejected(missing)
    except (Rejected, UsageError) as error:
        raise Rejected(error.what, code="hardware-report") from None
    except (ValueError, TypeError) as error:  # base64, hex, an index
        raise Rejected(f"a document or register: {error}", code="hardware-report") from None
    return report


def hardware_findings(report: HardwareReport) -> tuple[Finding, ...]:
    """Why the report does not show that its image works on hardware; empty when it does."""
    return tuple(_findings(report))


def _findings(report: HardwareReport) -> Iterator[Finding]:
    if report.simulator:
        yield Finding("simulator", "report", "made on the simulator, which attests nothing")
    names = tuple(check.name for check in report.checks)
    if names != CHECKS:
        yield Finding("smoke", "checks", "not those of a report", ", ".join(CHECKS), ", ".join(names))
    for check in report.checks:
        if not check.ok:
            yield Finding("smoke", check.name, check.detail)
    documents = [each for check in report.checks for each in check.documents]
    if not documents:
        yield Finding("smoke", "documents", "there is none, so nothing vouches for the report")
    for nonce, document in documents:
        yield from _of_document(report, nonce, document)


def _of_document(report: HardwareReport, nonce: bytes, document: bytes) -> Iterator[Finding]:
    """What is wrong with a document as of when it was made, which the report's times must enclose."""
    age = MaxAge(None, skew_ms=SKEW_MS)
    expected = [ExpectPcrs(report.registers), ExpectNonce(nonce), *alive_expectations(), age]
    now = datetime.fromtimestamp(report.ended / 1000, timezone.utc)
    root = root_for("local" if report.simulator else "aws")
    verdict = verify_document(document, expected, now=now, root=root)
    yield from verdict.findings
    if verdict.ok:
        made, module = verdict.document.timestamp_ms, verdict.document.module_id
        if made < report.began - SKEW_MS:
            yield Finding("too-old", "document", "made before the report's time")
        if not module.startswith(f"{report.machine['instance']}-enc"):
            yield Finding("module-id", "document", f"of {module}, not of {report.machine['instance']}")


def _check(value: Any) -> SmokeCheck:
    fields = Fields(value, "checks")
    check = SmokeCheck(
        fields.text("name", limit=TEXT_MAX),
        fields.boolean("ok"),
        fields.text("detail", limit=TEXT_MAX),
        fields.integer("ms"),
        tuple(
            (bytes.fromhex(nonce), base64.b64decode(document, validate=True))
            for nonce, document in fields.items("documents", high=DOCUMENTS_MAX)
        ),
    )
    fields.done()
    return check


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
