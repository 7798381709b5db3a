"""Reports and claims as a build writes them, read as a buyer reads them: strictly, every difference named."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest.errors import Rejected
from coattest.network import parse_network
from coattest_build.formats.measure import SectionDigest
from coattest_build.report import BuildInput, BuildReport, ImageResult, SourceIdentity
from coattest_build.sandbox.isolate import ISOLATION
from coattest_verify.cli.words import claim_rows
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport


def profile(name: str = "image.eif", fill: str = "a") -> ImageResult:
    sections = tuple(
        SectionDigest(kind, 100, fill * 96)
        for kind in ("kernel", "cmdline", "metadata", "ramdisk", "ramdisk")
    )
    pcrs = tuple((f"PCR{number}", fill * 96) for number in range(3))
    return ImageResult(name, 1000, fill * 64, fill * 96, pcrs, sections)


REPORT = BuildReport(
    release="0.1.0",
    architecture="x86_64",
    route="native",
    source=SourceIdentity("c" * 40, False, "1" * 64, "2" * 64),
    profiles=(("aws", profile()), ("local", profile("image.local.eif", "b"))),
    kernel_compiled_here=True,
    kernel_sha256="3" * 64,
    isolation=ISOLATION,
    tool_version="0.1.0",
    tool_sha256="4" * 64,
    inputs=(
        BuildInput(
            "libc6", "2.36-9+deb12u14", "5" * 64, "pool/main/g/glibc/libc6_2.36-9+deb12u14_amd64.deb", "deb"
        ),
        BuildInput("cbor2", "5.9.0", "6" * 64, "cbor2-5.9.0-cp311-cp311-manylinux_2_28_x86_64.whl", "wheel"),
    ),
)
CLAIM = json.loads(REPORT.claim())


def differences(report: BuildReport, claim: Any = CLAIM) -> tuple[str, ...]:
    """What a buyer sees of a build beside a claim."""
    return RebuildReport.read(report.to_json()).differences(Claimed.decode(json.dumps(claim).encode()))


def test_what_a_build_writes_is_what_a_buyer_reads() -> None:
    """Every field of the report that a statement needs arrives, and the claim is a part of the report."""
    read = RebuildReport.read(json.loads(json.dumps(REPORT.to_json())))
    assert (read.release, read.architecture, read.dirty) == ("0.1.0", "x86_64", False)
    assert (read.tree_sha256, read.lock_sha256) == ("1" * 64, "2" * 64)
    assert {name: result.to_json() for name, result in read.profiles.items()} == CLAIM["profiles"]
    assert (read.built.route, read.built.commit, read.built.kernel_compiled) == ("native", "c" * 40, True)
    assert (read.built.kernel_sha256, read.built.tool_sha256) == ("3" * 64, "4" * 64)
    assert read.built.isolation == ISOLATION
    assert [item._asdict() for item in read.built.inputs] == REPORT.to_json()["inputs"]
    assert differences(REPORT) == ()
    outside = dataclasses.replace(REPORT, source=dataclasses.replace(REPORT.source, commit=None))
    assert RebuildReport.read(outside.to_json()).built.commit is None


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    found = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += places(value, (*path, index))
    return found


@settings(max_examples=400)
@given(st.data())
def test_no_mutated_document_is_mistaken_for_another(data: st.DataObject) -> None:
    """A value of a claim replaced by another kind is refused, and only ever as Rejected."""
    document = copy.deepcopy(CLAIM)
    *parents, last = data.draw(st.sampled_from(places(document)))
    holder = document
    for step in parents:
        holder = holder[step]
    wrong = data.draw(st.sampled_from([None, True, -1, 1.5, "", "x y\n", [], {}, ["x"], {"x": 1}]))
    holder[last] = wrong
    with pytest.raises(Rejected):
        Claimed.decode(json.dumps(document).encode())


def test_a_claim_names_a_kernel_that_is_not_minimal() -> None:
    """In one spelling; a claim that names another profile than was built is found out."""
    report = dataclasses.replace(REPORT, kernel_profile="container")
    assert "kernel" not in CLAIM
    document = json.loads(report.claim())
    assert document == {**CLAIM, "kernel": {"profile": "container"}}
    assert Claimed.decode(report.claim()).kernel_profile == "container"
    built = RebuildReport.read(report.to_json())
    assert built.differences(Claimed.decode(report.claim())) == ()
    (found,) = built.differences(Claimed.decode(REPORT.claim()))
    assert (found.code, found.where, found.detail) == (
        "mismatch",
        "kernel_profile",
        "container instead of minimal",
    )
    for kernel in (None, {}, {"profile": "minimal"}, {"profile": "x"}, {"profile": "container", "x": 1}):
        with pytest.raises(Rejected):
            Claimed.decode(json.dumps({**document, "kernel": kernel}).encode())


NETWORK = parse_network(["5005:8080"], ["a.test:443"])


def test_a_claim_names_the_network() -> None:
    """In one spelling; a claim of another network than was built is found out."""
    report = dataclasses.replace(REPORT, network=NETWORK)
    document = json.loads(report.claim())
    assert document == {**CLAIM, "network": {"listen": ["5005:8080"], "connect": ["a.test:443"]}}
    claim = Claimed.decode(report.claim())
    assert claim.network == NETWORK
    assert ("network", "vsock 5005 to 127.0.0.1:8080; out to a.test:443") in claim_rows(claim)
    built = RebuildReport.read(report.to_json())
    assert built.differences(claim) == ()
    (found,) = RebuildReport.read(REPORT.to_json()).differences(claim)
    assert (found.code, found.where, found.expected) == ("mismatch", "network", str(NETWORK))


@pytest.mark.parametrize(
    "network",
    [
        *(None, [], {}, {"listen": [], "connect": []}, {"listen": ["5:80"]}, {"connect": ["a:1"]}),
        {"listen": ["5:80"], "connect": [], "x": 1},
        {"listen": [5], "connect": []},
        {"listen": "5:80", "connect": []},
        {"listen": ["5:80"] * 2, "connect": []},
        {"listen": ["5:080"], "connect": []},
        {"listen": [], "connect": ["A:1"]},
        {"listen": [], "connect": [f"a{number}:1" for number in range(65)]},
    ],
)
def test_a_network_of_another_form_is_refused(network: Any) -> None:
    """Also one that says nothing: a claim without a network has none."""
    with pytest.raises(Rejected):
        Claimed.decode(json.dumps({**CLAIM, "network": network}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"nothing", b"\xff", b'{"format": "coattest-claim/v2"}', b"[" * 100_000, b'{"a":1,"a":2}'],
)
def test_a_claim_that_is_none_is_one_line(data: bytes) -> None:
    """Garbage, deep nesting and doubled keys are refused."""
    with pytest.raises(Rejected) as caught:
        Claimed.decode(data)
    assert "\n" not in str(caught.value)


def test_a_build_that_agrees_has_no_differences() -> None:
    """Commit, tool, inputs and isolation are not claimed: only what everybody must get is."""
    other = dataclasses.replace(
        REPORT,
        source=dataclasses.replace(REPORT.source, commit=None, dirty=True),
        kernel_compiled_here=False,
        tool_version="9",
        isolation={},
        inputs=(),
    )
    assert differences(other) == ()


def with_profile(**changes: Any) -> BuildReport:
    changed = dataclasses.replace(profile(), **changes)
    return dataclasses.replace(REPORT, profiles=(("aws", changed), REPORT.profiles[1]))


@pytest.mark.parametrize(
    ("report", "first"),
    [
        (dataclasses.replace(REPORT, release="0.2.0"), "release: 0.2.0 instead of 0.1.0"),
        (dataclasses.replace(REPORT, architecture="aarch64"), "architecture: aarch64 instead of x86_64"),
        (
            dataclasses.replace(REPORT, source=dataclasses.replace(REPORT.source, tree_sha256="9" * 64)),
            f"tree_sha256: {'9' * 64} instead of 1111",
        ),
        (
            dataclasses.replace(REPORT, source=dataclasses.replace(REPORT.source, lock_sha256="9" * 64)),
            f"lock_sha256: {'9' * 64} instead of 2222",
        ),
        (dataclasses.replace(REPORT, profiles=REPORT.profiles[:1]), "local: not built here"),
        (
            dataclasses.replace(REPORT, profiles=(*REPORT.profiles, ("more", profile()))),
            "more: not in the claim",
        ),
        (with_profile(size=1001), "aws: image size 1001 instead of 1000"),
        (with_profile(sha256="9" * 64), f"aws: image sha256 {'9' * 64} instead of aaaa"),
        (
            with_profile(pcrs=(*profile().pcrs[:2], ("PCR2", "9" * 96))),
            f"aws: PCR2 {'9' * 96} ",
        ),
        (
            with_profile(
                sections=(
                    *profile().sections[:3],
                    SectionDigest("ramdisk", 7, "9" * 96),
                    profile().sections[4],
                )
            ),
            f"aws: section 3 ramdisk of 7 bytes, {'9' * 96} instead of ramdisk of 100",
        ),
        (
            with_profile(sections=profile().sections[:4]),
            "aws: number of sections 4 instead of 5",
        ),
    ],
)
def test_every_kind_of_difference_is_named(report: BuildReport, first: str) -> None:
    """One sentence says what differs and where."""
    assert str(differences(report)[0]).startswith(first)


@given(st.sampled_from(["aws", "local"]), st.integers(0, 2), st.integers(0, 95))
def test_no_changed_digit_of_a_register_goes_unnoticed(name: str, register: int, position: int) -> None:
    """Changing any one hex digit of any claimed register is a difference."""
    document = copy.deepcopy(CLAIM)
    value = document["profiles"][name]["pcrs"][f"PCR{register}"]
    swapped = "0" if value[position] != "0" else "1"
    document["profiles"][name]["pcrs"][f"PCR{register}"] = value[:position] + swapped + value[position + 1 :]
    assert len(differences(REPORT, document)) == 1
    assert str(differences(REPORT, document)[0]).startswith(f"{name}: PCR{register} ")
