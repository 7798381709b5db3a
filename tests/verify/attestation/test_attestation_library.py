"""The verifier is a library of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import sys
import coattest_verify.attestation, coattest_verify.attestation.files
for name in sorted({module.split(".")[0] for module in sys.modules} - set(sys.stdlib_module_names)):
    print(name)
"""


ABSENT = ("click", "rich", "cbor2", "boto3", "botocore", "securesystemslib", "in_toto", "z3", "moto", "yaml")
"""What other rooms need, and the library must never load."""


def loaded(program: str) -> list[str]:
    """The lines that a fresh interpreter prints, with nothing of ours but the two packages on its path."""
    path = f"{ROOT / 'common'}:{ROOT / 'verify'}"
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
    assert {"coattest", "coattest_verify", "cryptography"} <= found
    assert found <= {"coattest", "coattest_verify", "cryptography", "cffi", "typing_extensions", "six"}
    assert not found & set(ABSENT)


def test_of_our_own_rooms_the_library_loads_errors_findings_and_its_own() -> None:
    """Of ``coattest`` what needs the standard library only; of coattest_verify attestation alone."""
    program = PROGRAM + "print(*sorted(name for name in sys.modules if name.startswith('coattest')))"
    found = loaded(program)[-1].split()
    common = {name for name in found if not name.startswith("coattest_verify")}
    names = {"codes", "errors", "findings", "jsontext", "strictjson"}
    assert common == {"coattest", *(f"coattest.{name}" for name in names)}
    rooms = {name.split(".")[1] for name in found if name.startswith("coattest_verify.")}
    assert rooms == {"attestation"}


@pytest.mark.parametrize("name", ABSENT)
def test_the_library_works_where_nothing_else_can_be_imported(name: str) -> None:
    """With a package's import made to fail, the library is imported all the same, its API complete."""
    blocked = f"import sys; sys.modules[{name!r}] = None\n"
    used = "import coattest_verify.attestation as api\nprint(all(map(vars(api).get, api.__all__)))"
    assert loaded(blocked + used) == ["True"]


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
