"""The measured trust file: the two profiles, and what is refused."""

from __future__ import annotations

import ast
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.payload import trust
from coattest_enclave.protocol.errors import EnclaveError

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "enclave" / "profiles"
PACKAGE = ROOT / "enclave" / "coattest_enclave"


def profile(name: str) -> dict[str, Any]:
    """A profile's fields."""
    fields: dict[str, Any] = json.loads((PROFILES / f"{name}.json").read_text())
    return fields


def test_the_aws_profile_knows_the_hypervisor_only() -> None:
    """No Unix socket, no host entropy, AWS's endpoint: nothing of the simulation is in it."""
    aws = trust.parse_trust((PROFILES / "aws.json").read_bytes())
    assert aws.nsm == ("/dev/nsm",)
    assert aws.listen == ("vsock:any:5005",)
    assert aws.proxy == ("vsock:3:8000", "vsock:2:8000")
    assert aws.entropy == ("nsm-hwrng",)
    assert aws.kms_host.format(region="eu-central-1") == "kms.eu-central-1.amazonaws.com"
    assert aws.console is False
    assert aws.on_hardware(True) == aws


def test_the_aws_profile_trusts_amazons_roots() -> None:
    """Its CA bundle is Amazon Root CA 1 to 4 and Starfield Services G2, the roots of AWS's endpoints."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=profile("aws")["ca_pem"])
    subjects = [dict(pair[0] for pair in root["subject"]) for root in context.get_ca_certs()]
    assert sorted(subject["commonName"] for subject in subjects) == [
        *(f"Amazon Root CA {number}" for number in (1, 2, 3, 4)),
        "Starfield Services Root Certificate Authority - G2",
    ]


def test_the_local_profile_trusts_the_published_ca_and_nothing_of_aws() -> None:
    """The embedded CA is local-ca.pem; the endpoint is under .test, which nobody owns (RFC 6761)."""
    local = trust.parse_trust((PROFILES / "local.json").read_bytes())
    assert local.ca_pem == (PROFILES / "local-ca.pem").read_text()
    assert local.kms_host == "kms.{region}.coattest.test"


def test_hardware_and_software_host_never_mix() -> None:
    """With the device no Unix socket is used, without it nothing else, and aws does not start."""
    local = trust.parse_trust((PROFILES / "local.json").read_bytes())
    there, absent = local.on_hardware(True), local.on_hardware(False)
    assert (there.nsm, there.listen, there.entropy) == (("/dev/nsm",), ("vsock:any:5005",), ("nsm-hwrng",))
    assert absent.nsm == ("unix:/run/coattest/nsm.sock",)
    assert absent.listen == ("unix:/run/coattest/in_5005.sock",)
    assert absent.proxy == ("unix:/run/coattest/out_8000.sock",)
    assert absent.entropy == ("host",)
    with pytest.raises(EnclaveError):
        trust.parse_trust((PROFILES / "aws.json").read_bytes()).on_hardware(False)


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("aws", {"extra": 1}),
        ("aws", {"profile": "test"}),
        ("aws", {"partition": "aws-iso"}),
        ("aws", {"kms_host": "kms.evil.example"}),
        ("aws", {"kms_host": "{region}.evil.example"}),
        ("aws", {"kms_host": "kms.{region}.amazonaws.com:444"}),
        ("aws", {"kms_host": "kms.{region}.{x}.com"}),
        ("aws", {"kms_host": 1}),
        ("aws", {"nsm": []}),
        ("aws", {"nsm": "/dev/nsm"}),
        ("aws", {"nsm": ["/dev/other"]}),
        ("aws", {"nsm": ["/dev/nsm", "unix:/run/coattest/nsm.sock"]}),
        ("aws", {"listen": ["tcp:0.0.0.0:5005"]}),
        ("aws", {"listen": ["vsock:any:5005", "unix:/run/x"]}),
        ("aws", {"proxy": ["vsock:3"]}),
        ("aws", {"entropy": ["nsm-hwrng", "host"]}),
        ("aws", {"entropy": ["virtio_rng.0"]}),
        ("aws", {"console": None}),
        ("local", {"console": 1}),
        ("local", {"nsm": [["/dev/nsm"]]}),
        ("local", {"listen": ["unix:relative"]}),
    ],
)
def test_a_trust_file_that_breaks_a_rule_is_refused(base: str, changes: dict[str, Any]) -> None:
    """The program does not start on a file that it does not fully understand."""
    trust.parse_trust(json.dumps(profile(base)).encode())
    with pytest.raises(EnclaveError):
        trust.parse_trust(json.dumps({**profile(base), **changes}).encode())


def test_a_field_given_twice_is_refused() -> None:
    """JSON readers differ on duplicate names, so there are none."""
    text = json.dumps(profile("local"))
    with pytest.raises(EnclaveError):
        trust.parse_trust(text.replace("{", '{"profile": "aws", ', 1).encode())


@given(st.binary(max_size=100))
def test_junk_raises_nothing_but_bad_trust(junk: bytes) -> None:
    """No other exception escapes the parser."""
    with pytest.raises(EnclaveError):
        trust.parse_trust(junk)


def test_the_program_imports_cbor2_cryptography_and_the_standard_library_only() -> None:
    """What buyers have to review beside this package is two libraries."""
    found = set()
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) == {"cbor2", "cryptography", "coattest_enclave"}


def test_the_program_reads_no_environment_and_runs_nothing() -> None:
    """No environment variable, argument, subprocess, eval or pickle appears in the package."""
    forbidden = {
        "environ",
        "getenv",
        "argv",
        "subprocess",
        "system",
        "popen",
        "eval",
        "exec",
        "pickle",
        "ctypes.CDLL",
    }
    for source in PACKAGE.rglob("*.py"):
        names = {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(ast.parse(source.read_text()))
            if isinstance(node, ast.Name | ast.Attribute)
        }
        assert not names & forbidden, source


def test_no_module_is_long() -> None:
    """Each module fits a sitting: under 300 lines."""
    lengths = {source.name: len(source.read_text().splitlines()) for source in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length >= 300} == {}
