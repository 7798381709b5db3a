"""The ``eif`` program.

A deployment runs ``eif measure IMAGE`` for every image, and importing click takes as long as hashing 40 MB
(bench/bench_image.py). So this one form runs without click; every other form, and an error in this one, goes
to the command line.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Console script entry point."""
    match sys.argv[1:]:
        case ["measure", image] if not image.startswith("-") and _measured(image):
            return
    from coattest_build import cli  # noqa: PLC0415

    cli.main()


def _measured(image: str) -> bool:
    """Print the registers of an image; False when it could not be measured."""
    from pathlib import Path  # noqa: PLC0415

    from coattest.errors import CoattestError  # noqa: PLC0415
    from coattest.jsontext import emit_json  # noqa: PLC0415
    from coattest_build.formats.measure import measure_registers  # noqa: PLC0415

    try:
        found = measure_registers(Path(image))
        if "PCR8" in found["Measurements"]:
            return False  # a signature is to be checked
        emit_json(found)
    except (CoattestError, OSError):
        return False
    except KeyboardInterrupt:
        sys.exit(3)
    return True
