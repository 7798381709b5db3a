"""The likely cause of a refusal of a document, in a sentence: most have one of a few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coattest.findings import Finding
from coattest_verify.attestation.profiles import AWS_NITRO, LOCAL_SIMULATOR
from coattest_verify.attestation.rules import (
    FUTURE_TIMESTAMP,
    OUT_OF_DATE,
    UNTRUSTED_ROOT,
    WRONG_MEASUREMENT,
)

_PARTS = {
    frozenset(
        {"PCR0", "PCR1"}
    ): "the kernel, its command line or the boot ramdisk differs, and PCR2, the application, does not",
    frozenset(
        {"PCR0", "PCR2"}
    ): "the application differs, and PCR1, the kernel with its command line and the boot ramdisk, does not",
}
"""Which part of the image it is, where two of the image's three registers differ."""


def likely_causes(findings: Sequence[Finding], *, option: str, at: bool = False) -> Iterator[str]:
    """What a person probably has to change, for findings of a document's verification.

    ``option`` is what the command calls its root: ``--root`` or ``--profile``; ``at`` is whether the time was
    given to the command. It decides nothing.
    """
    codes = {finding.code: finding for finding in reversed(findings)}
    root = codes.get(UNTRUSTED_ROOT.code)
    if root is not None and LOCAL_SIMULATOR.sha256.hex() in str(root.found):
        yield f"it is of the simulator: {option} local accepts it, and it attests nothing"
    if root is not None and AWS_NITRO.sha256.hex() in str(root.found):
        yield f"it is of AWS's root: leave out {option}, or give {option} aws"
    if OUT_OF_DATE.code in codes and FUTURE_TIMESTAMP.code not in codes:
        yield (
            "it is older than its certificates, which live about three hours: --at TIME judges it as of when "
            "it arrived, --at document as of its own time"
        )
    if FUTURE_TIMESTAMP.code in codes and at:
        ahead = codes[FUTURE_TIMESTAMP.code].found
        yield f"--at is before it was made ({ahead}): give a later time, or --at document for its own"
    elif FUTURE_TIMESTAMP.code in codes:
        ahead = codes[FUTURE_TIMESTAMP.code].found
        yield f"the clocks differ: it is {ahead}; set this machine's clock (timedatectl), or --clock-skew MS"
    wrong = frozenset(finding.where for finding in findings if finding.code == WRONG_MEASUREMENT.code)
    if wrong in _PARTS:
        yield _PARTS[wrong]
    elif wrong and wrong < {"PCR1", "PCR2"}:
        (name,) = wrong
        yield (
            f"PCR0 covers all that {name} does: if PCR0 is expected too, and fits, the expected {name} is "
            "of a different image, or mistyped"
        )
