"""The bill of materials, judged by the kept library's validator and by the lock it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from coattest_build.inputs import lock as locks

ROOT = Path(__file__).resolve().parents[3]


def eif(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``eif`` as a process."""
    program = str(Path(sys.executable).with_name("eif"))
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def printed() -> str:
    """What ``eif sbom`` prints for this checkout."""
    done = eif("sbom", "--this-checkout-is-mine", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def document(printed: str) -> dict[str, Any]:
    """The same, parsed."""
    return json.loads(printed)


def test_it_validates(printed: str) -> None:
    """CycloneDX's strict schema accepts it, and refuses a component without a name and a time that is none.

    Formats of addresses are not checked: nothing in it has one.
    """
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(printed) is None
    assert '"url"' not in printed
    nameless, timeless = json.loads(printed), json.loads(printed)
    del nameless["components"][0]["name"]
    timeless["metadata"]["timestamp"] = "yesterday"
    assert validator.validate_str(json.dumps(nameless)) is not None
    assert validator.validate_str(json.dumps(timeless)) is not None


def test_every_locked_input_is_in_it_with_its_hash(document: dict[str, Any]) -> None:
    """Nothing of the lock is missing and nothing else is there; build tools are marked as excluded."""
    lock, digest = locks.load_lock(ROOT)
    found = {(part["name"], part["version"], part["hashes"][0]["content"]) for part in document["components"]}
    assert found == {(each.name, each.version, each.sha256) for each in (*lock.packages, *lock.wheels)}
    scopes = {part["name"]: part["scope"] for part in document["components"]}
    assert scopes["python3.11-minimal"] == scopes["linux-source-6.12"] == scopes["cryptography"] == "required"
    assert scopes["gcc-12"] == scopes["make"] == "excluded"
    properties = document["metadata"]["component"]["properties"]
    assert {"name": "coattest:lock_sha256", "value": digest} in properties
    (image, *_) = document["dependencies"]
    assert sorted(image["dependsOn"]) == sorted(
        part["bom-ref"] for part in document["components"] if part["scope"] == "required"
    )


def test_package_urls_are_canonical(document: dict[str, Any]) -> None:
    """The purl library reads each one and would write it as it stands."""
    for part in document["components"]:
        purl = PackageURL.from_string(part["purl"])
        assert (purl.type, purl.version) in (("deb", part["version"]), ("pypi", part["version"]))
        assert purl.to_string() == part["purl"]


def test_the_same_lock_gives_the_same_bytes(tmp_path: Path, printed: str) -> None:
    """Written to a file elsewhere and again; another lock gives another serial number."""
    copy = tmp_path / "source"
    (copy / "build").mkdir(parents=True)
    for name in ("image.toml", "image.lock"):
        (copy / "build" / name).write_bytes((ROOT / "build" / name).read_bytes())
    assert eif("sbom", "--source", str(copy), "--out", "bom.json", cwd=tmp_path).returncode == 0
    assert (tmp_path / "bom.json").read_text() == printed
    assert eif("sbom", "--source", str(copy), "--out", "-", cwd=tmp_path).stdout == printed
    assert not (tmp_path / "-").exists()
    locked = copy / "build" / "image.lock"
    locked.write_text(locked.read_text() + "\n# another\n")
    other = json.loads(eif("sbom", "--source", str(copy), cwd=tmp_path).stdout)
    assert other["serialNumber"] != json.loads(printed)["serialNumber"]
    locked.write_text("nonsense")
    refused = eif("sbom", "--source", str(copy), "--json", cwd=tmp_path)
    assert refused.returncode == 2


def test_it_says_that_it_reads_no_image(tmp_path: Path) -> None:
    """The help does, and `eif -h` has it beside the lock; an image is refused."""
    assert "from no image file" in " ".join(eif("sbom", "-h", cwd=tmp_path).stdout.split())
    made, looked = eif("-h", cwd=tmp_path).stdout.split("Make an image:")[1].split("Look at an image:")
    assert "sbom" in made
    assert "sbom" not in looked
    assert eif("sbom", "x.eif", cwd=tmp_path).returncode == 2
