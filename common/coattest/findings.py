"""One thing that is wrong, in the one form that every check reports it in."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from coattest.codes import require


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    ``code`` is registered in ``coattest.codes`` and never changes its meaning; ``where`` names the file,
    field, event or statement; ``detail`` says in one line what is wrong. ``expected`` and ``found`` are the
    two values as text (bytes in lower-case hex), None where there are none to compare. ``rule`` names the
    public source of the rule. Raises LookupError for a code that is not registered.
    """

    code: str
    where: str
    detail: str
    expected: str | None = None
    found: str | None = None
    rule: str | None = None

    def __post_init__(self) -> None:
        require(self.code)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        source = f"; {self.rule}" if self.rule else ""
        return f"{place}{self.detail} [{self.code}{source}]"

    def to_json(self) -> dict[str, str | None]:
        """One flat object: code, where, detail, expected, found, rule; null where there is nothing to say."""
        return asdict(self)
