"""An image file against a decision: the file is measured here, whatever anybody says about it."""

from __future__ import annotations

from pathlib import Path

from coattest.errors import FoundFalse
from coattest_build.formats import measure
from coattest_verify.quorum.decision import Decision


class ImageDiffers(FoundFalse):
    """The image is not the one that was decided on."""

    default_code = "image-differs"


def check_image(image: Path, decision: Decision) -> measure.ImageMeasurements:
    """The measurements of ``image``, which are the decided ones; raises ImageDiffers naming every
    difference.
    """
    found = measure.measure(image)
    pairs = [
        ("size", decision.image_size, found.size),
        ("sha384", decision.image_sha384, found.sha384),
        ("PCR0", decision.pcrs[0], found.pcr0),
        ("PCR1", decision.pcrs[1], found.pcr1),
        ("PCR2", decision.pcrs[2], found.pcr2),
    ]
    wrong = [f"{name} is {value}, decided was {wanted}" for name, wanted, value in pairs if value != wanted]
    if wrong:
        raise ImageDiffers(
            "; ".join(wrong), where=str(image), hint="rebuild the decided release with 'verify rebuild'"
        )
    return found


def binding_pcrs(role_arn: str, instance_id: str) -> dict[int, bytes]:
    """PCR3 and PCR4 of an enclave started by that role on that instance, 48 bytes each."""
    return {3: bytes.fromhex(measure.pcr3(role_arn)), 4: bytes.fromhex(measure.pcr4(instance_id))}
