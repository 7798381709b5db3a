"""Checks an image file against a decision, by measuring it here; and what of it the parent has to know."""

from __future__ import annotations

from pathlib import Path

from coattest.errors import FoundFalse, UsageError
from coattest.findings import Finding
from coattest.network import Network
from coattest_build.containers.own.imagefile import plan_of_image
from coattest_build.formats import measure
from coattest_verify.quorum.decision import Decision


def check_image(image: Path, decision: Decision) -> measure.ImageMeasurements:
    """The measurements of ``image``, which are the decided ones; raises FoundFalse
    (``image-differs``) with every difference.
    """
    found = measure.measure(image)
    pairs = [
        ("size", decision.image_size, found.size),
        ("sha384", decision.image_sha384, found.sha384),
        ("PCR0", decision.pcrs[0], found.pcr0),
        ("PCR1", decision.pcrs[1], found.pcr1),
        ("PCR2", decision.pcrs[2], found.pcr2),
    ]
    wrong = [
        Finding("image-differs", name, f"is {value}, decided was {wanted}", str(wanted), str(value))
        for name, wanted, value in pairs
        if value != wanted
    ]
    if wrong:
        raise FoundFalse(
            "; ".join(f"{item.where} {item.detail}" for item in wrong),
            where=str(image),
            hint="rebuild the decided release with 'verify rebuild'",
            code="image-differs",
            findings=wrong,
        )
    return found


def binding_pcrs(role_arn: str, instance_id: str) -> dict[int, bytes]:
    """PCR3 and PCR4 of an enclave started by that role on that instance, 48 bytes each."""
    return {3: bytes.fromhex(measure.pcr3(role_arn)), 4: bytes.fromhex(measure.pcr4(instance_id))}


def measured_network(image: Path) -> Network:
    """The network that an image file's enclave was measured with.

    Raises UsageError where it has none, ImageError for a file that is no image.
    """
    plan = plan_of_image(image)
    if plan is None or not plan.network:
        raise UsageError("its enclave has no network", where=str(image), hint="`eif describe` shows one")
    return plan.network
