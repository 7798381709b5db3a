"""An image as the strict reader takes it, CRC-32 included, for tests that are not about measurements."""

from __future__ import annotations

from typing import BinaryIO

from coattest_build.formats import eif
from coattest_build.formats.measure import measure_found


def read_layout(file: BinaryIO) -> eif.Layout:
    """Header and sections. Raises ImageError."""
    layout = eif.read_structure(file)
    eif.check_crc(layout, measure_found(file, layout, whole=False).crc32)
    return layout
