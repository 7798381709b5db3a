"""The outcome of verification: every finding, and the only safe way to the document."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coattest.findings import Finding
from coattest_verify.attestation.document import Document
from coattest_verify.attestation.root import Root
from coattest_verify.attestation.rules import NotVerified


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one verification at one time.

    ``findings`` is empty exactly when the document passed, and only then is the verdict true; ``notices`` is
    what was tolerated (strict mode would not). ``chain_expires`` is when the first certificate of the chain
    runs out, None where there is no verified chain.
    """

    findings: tuple[Finding, ...]
    notices: tuple[Finding, ...]
    root: Root
    checked_at: datetime
    chain_expires: datetime | None
    _document: Document | None = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.findings and self._document is not None

    def __bool__(self) -> bool:
        return self.ok

    @property
    def document(self) -> Document:
        """The verified document; raises NotVerified, with every finding, when the verdict is not ok."""
        if self.findings or self._document is None:
            raise NotVerified(self.findings)
        return self._document

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain data; ``document`` is there only when it passed."""
        data: dict[str, Any] = {
            "ok": self.ok,
            "root": self.root.name,
            "checked_at": self.checked_at.isoformat(),
            "findings": [finding.to_json() for finding in self.findings],
            "notices": [notice.to_json() for notice in self.notices],
        }
        if self.ok:
            data["document"] = self.document.to_json()
            data["chain_expires"] = self.chain_expires.isoformat() if self.chain_expires else None
        return data
