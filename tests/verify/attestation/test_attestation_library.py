"""The verifier is a library of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import sys
import coattest_verify.attestation, coattest_verify.attestation.files
for name in sorted({module.split(".")[0] for module in sys.modules} - set(sys.stdlib_module_names)):
    print(name)
"""


def loaded(program: str) -> list[str]:
    """The lines that a fresh interpreter prints, with nothing but the two packages on its path."""
    path = f"{ROOT / 'build'}:{ROOT / 'verify'}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": path, "PATH": ""},
    )
    return done.stdout.splitlines()


def test_the_library_imports_cryptography_and_nothing_else() -> None:
    """Whoever verifies documents installs no CBOR library, no command line, no cloud."""
    found = {name for name in loaded(PROGRAM) if not name.startswith("_")}
    assert {"coattest_verify", "coattest_build", "cryptography"} <= found
    assert found <= {"coattest_verify", "coattest_build", "cryptography", "cffi", "typing_extensions", "six"}


def test_only_the_errors_of_the_builder_are_used() -> None:
    """Of coattest_build the library loads the error classes, and not the builder."""
    program = PROGRAM + "print(*[name for name in sys.modules if name.startswith('coattest_build.')])"
    assert loaded(program)[-1] == "coattest.errors"


def test_the_limits_are_those_of_their_sources() -> None:
    """Each bound as the specification, or the documents beyond it, have it: written out once more."""
    from coattest_verify.attestation import limits

    found = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert found == {
        "PAYLOAD_MAX": 16384,
        "SIGNATURE_SIZE": 96,
        "DOCUMENT_MAX": 16493,
        "CERTIFICATE_MAX": 1024,
        "BUNDLE_MAX": 8,
        "PCR_COUNT_MAX": 32,
        "PCR_SIZES": (32, 48, 64),
        "PCR_SIZE_SHA384": 48,
        "SHA256_SIZE": 32,
        "PUBLIC_KEY_MAX": 1024,
        "USER_DATA_MAX": 1024,
        "UNKNOWN_SHOWN_MAX": 16,
        "TIMESTAMP_MAX_MS": 253_402_300_799_999,
        "DEPTH_MAX": 8,
        "SKEW_MAX_MS": 300_000,
    }
