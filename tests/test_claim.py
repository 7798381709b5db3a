"""The committed claim is about the image of this checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from coattest_build.formats.measure import measure
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport
from conftest import BuiltImages

CLAIM = Path(__file__).parent.parent / "attestations" / "releases" / "0.1.0" / "claim.json"


@pytest.mark.image
def test_the_claim_is_what_this_checkout_builds(built_images: BuiltImages) -> None:
    """Whoever changes the image commits the new claim with it; this names what differs otherwise."""
    claim = Claimed.decode(CLAIM.read_bytes())
    assert RebuildReport.read(built_images.report.to_json()).differences(claim) == ()
    assert set(claim.profiles) == {"aws", "local"}
    assert CLAIM.read_bytes() == built_images.report.claim()


@pytest.mark.image
def test_measuring_the_images_gives_the_claimed_registers(built_images: BuiltImages) -> None:
    """What `eif measure` says of each image file equals the claim; the boot part is the same in both."""
    claim = Claimed.decode(CLAIM.read_bytes()).profiles
    boots = set()
    for profile, result in claim.items():
        measured = measure(built_images.image(profile))
        registers = measured.nitro_json()["Measurements"]
        assert tuple(registers[name] for name in ("PCR0", "PCR1", "PCR2")) == result.pcrs
        assert measured.size <= 64 * 1024 * 1024
        boots.add(measured.pcr1)
    assert len(boots) == 1
