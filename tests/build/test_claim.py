"""Claims and reports: strict reading, and every difference named."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest_build.claim import Claim
from coattest_build.errors import UsageError
from coattest_build.measure import SectionDigest
from coattest_build.report import BadReport, BuildReport, Input, ProfileResult, SourceIdentity
from coattest_build.sandbox import Isolation


def profile(name: str = "image.eif", fill: str = "a") -> ProfileResult:
    sections = tuple(
        SectionDigest(kind, 100, fill * 96)
        for kind in ("kernel", "cmdline", "metadata", "ramdisk", "ramdisk")
    )
    pcrs = tuple((f"PCR{number}", fill * 96) for number in range(3))
    return ProfileResult(name, 1000, fill * 64, fill * 96, pcrs, sections)


REPORT = BuildReport(
    release="0.1.0",
    architecture="x86_64",
    route="native",
    source=SourceIdentity("c" * 40, False, "1" * 64, "2" * 64),
    profiles=(("aws", profile()), ("local", profile("image.local.eif", "b"))),
    kernel_compiled_here=True,
    kernel_sha256="3" * 64,
    isolation=Isolation().to_json(),
    tool_version="0.1.0",
    tool_sha256="4" * 64,
    inputs=(
        Input(
            "libc6", "2.36-9+deb12u14", "5" * 64, "pool/main/g/glibc/libc6_2.36-9+deb12u14_amd64.deb", "deb"
        ),
        Input("cbor2", "5.9.0", "6" * 64, "cbor2-5.9.0-cp311-cp311-manylinux_2_28_x86_64.whl", "wheel"),
    ),
)
CLAIM = Claim.from_report(REPORT)


def test_reports_and_claims_survive_the_round_trip() -> None:
    """What is written is read back as the same value."""
    assert BuildReport.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT
    assert Claim.parse(CLAIM.render()) == CLAIM
    outside = dataclasses.replace(REPORT, source=dataclasses.replace(REPORT.source, commit=None))
    assert BuildReport.from_json(outside.to_json()) == outside


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
    """A value replaced by another kind, dropped or added is refused, and only ever as BadReport."""
    kind = data.draw(st.sampled_from(["report", "claim"]))
    document = copy.deepcopy(REPORT.to_json() if kind == "report" else CLAIM.to_json())
    # What an isolation record says is not fixed by the format.
    path = data.draw(st.sampled_from([p for p in places(document) if "isolation" not in p]))
    *parents, last = path
    holder = document
    for step in parents:
        holder = holder[step]
    wrong = data.draw(st.sampled_from([None, True, -1, 1.5, "", "x y\n", [], {}, ["x"], {"x": 1}]))
    if holder[last] == wrong or (last == "commit" and wrong is None) or (last == "dirty" and wrong is True):
        return
    if last == "inputs" and wrong == []:
        return
    holder[last] = wrong
    with pytest.raises(BadReport):
        BuildReport.from_json(document) if kind == "report" else Claim.from_json(document)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"nothing", b"\xff", b'{"format": "coattest-claim/v2"}', b"[" * 100_000, b'{"a":1,"a":2}'],
)
def test_a_claim_that_is_none_is_one_line(data: bytes) -> None:
    """Garbage, deep nesting and doubled keys are usage errors."""
    with pytest.raises(BadReport) as caught:
        Claim.parse(data)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_claim_says_how_one_is_made(tmp_path: Path) -> None:
    """The error names the file and the command."""
    with pytest.raises(UsageError, match="eif build --claim"):
        Claim.load(tmp_path / "claim.json")


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
    assert CLAIM.differences(other) == ()


def with_profile(**changes: Any) -> BuildReport:
    changed = dataclasses.replace(profile(), **changes)
    return dataclasses.replace(REPORT, profiles=(("aws", changed), REPORT.profiles[1]))


@pytest.mark.parametrize(
    ("report", "first"),
    [
        (dataclasses.replace(REPORT, release="0.2.0"), "release: claimed 0.1.0, built from 0.2.0"),
        (dataclasses.replace(REPORT, architecture="aarch64"), "architecture: "),
        (
            dataclasses.replace(REPORT, source=dataclasses.replace(REPORT.source, tree_sha256="9" * 64)),
            "source tree: ",
        ),
        (
            dataclasses.replace(REPORT, source=dataclasses.replace(REPORT.source, lock_sha256="9" * 64)),
            "lock: ",
        ),
        (dataclasses.replace(REPORT, profiles=REPORT.profiles[:1]), "profile local: claimed and not built"),
        (
            dataclasses.replace(REPORT, profiles=(*REPORT.profiles, ("more", profile()))),
            "profile more: built and not claimed",
        ),
        (with_profile(size=1001), "profile aws: image size: claimed 1000, built 1001"),
        (with_profile(sha256="9" * 64), "profile aws: image sha256: "),
        (with_profile(pcrs=(*profile().pcrs[:2], ("PCR2", "9" * 96))), "profile aws: PCR2: "),
        (
            with_profile(
                sections=(
                    *profile().sections[:3],
                    SectionDigest("ramdisk", 7, "9" * 96),
                    profile().sections[4],
                )
            ),
            "profile aws: section 3 (ramdisk) differs (100 and 7 bytes): ",
        ),
        (
            with_profile(sections=profile().sections[:4]),
            "profile aws: number of sections: 5 claimed, 4 built",
        ),
    ],
)
def test_every_kind_of_difference_is_named(report: BuildReport, first: str) -> None:
    """One sentence says what differs and where; sections come before registers."""
    assert CLAIM.differences(report)[0].startswith(first)


@given(st.sampled_from(["aws", "local"]), st.integers(0, 2), st.integers(0, 95))
def test_no_changed_digit_of_a_register_goes_unnoticed(name: str, register: int, position: int) -> None:
    """Changing any one hex digit of any claimed register is a difference."""
    document = CLAIM.to_json()
    value = document["profiles"][name]["pcrs"][f"PCR{register}"]
    swapped = "0" if value[position] != "0" else "1"
    document["profiles"][name]["pcrs"][f"PCR{register}"] = value[:position] + swapped + value[position + 1 :]
    differences = Claim.from_json(document).differences(REPORT)
    assert len(differences) == 1
    assert f"profile {name}: PCR{register}" in differences[0]
