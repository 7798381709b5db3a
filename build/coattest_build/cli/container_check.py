"""`eif container check`: is this enclave that container image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.files import given_file, open_plain, read_whole
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import json_option, out
from coattest.strictjson import parse
from coattest.text import printable
from coattest_build import kernel
from coattest_build.cli.container_options import (
    IMAGE,
    STYLES,
    blobs_option,
    image_options,
    network_options,
    note_start,
    nsm_option,
    opened_image,
    opened_own,
    opened_tree,
)
from coattest_build.cli.options import FILE, cache_option, given_image
from coattest_build.containers.application import ARCHITECTURES, ContainerTree
from coattest_build.containers.blobs import BootParts, read_blobs
from coattest_build.containers.checking import (
    ContainerCheck,
    check_enclave_file,
    check_measured,
    check_registers,
)
from coattest_build.containers.own.checking import KERNEL, check_own_file
from coattest_build.containers.own.imagefile import own_boot_parts
from coattest_build.containers.own.profile import read_profile
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.explain.describe import crc_findings
from coattest_build.formats.eif import MAGIC, VERSION, Layout, SectionType, section_blocks
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.measure import ImageMeasurements, measure_found
from coattest_build.formats.registers import EMPTY_PCR2
from coattest_build.inputs.cache import Cache, cache_folder

MAX_EXPECTED = 1 << 20
"""Bytes of a measurements file."""
REGISTERS = ("PCR0", "PCR1", "PCR2")
MISREAD = frozenset(
    {
        *("eif-gap", "eif-limit", "eif-overlap", "eif-section-count", "eif-section-order"),
        *("eif-section-type", "eif-trailing", "eif-truncated"),
    }
)
"""Notes of a file's sections that are differences here: neither builder writes such a file."""
_REGISTER = re.compile(r"[0-9a-f]{96}")


def read_expected(path: Path) -> Mapping[str, str]:
    """PCR0, PCR1 and PCR2 of nitro-cli's JSON, as far as they are there. Raises UsageError.

    Debug mode's zeros and the empty PCR2 are refused: any image, or none, would do.
    """
    with given_file(path, code="bad-file"):
        with open_plain(path) as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise UsageError(
                    "is an image file (EIF), not measurements",
                    where=str(path),
                    hint="give it with --eif",
                    code="bad-file",
                )
        document = parse(read_whole(path, MAX_EXPECTED))
    inner = document.get("Measurements", document) if isinstance(document, dict) else None
    if not isinstance(inner, dict) or "PCR2" not in inner:
        raise UsageError(
            "no PCR2", where=str(path), hint="the JSON of nitro-cli or of eif measure", code="bad-file"
        )
    found = {name: inner[name] for name in REGISTERS if name in inner}
    for name, value in found.items():
        if not isinstance(value, str) or not _REGISTER.fullmatch(value.lower()):
            raise UsageError(f"{name} is not 96 hex digits", where=str(path), code="bad-pcr")
        if not value.strip("0"):
            raise UsageError(f"{name} is all zeros, as in debug mode", where=str(path), code="zero-pcr")
    if found["PCR2"].lower() == EMPTY_PCR2:
        raise UsageError("PCR2 is that of no application at all", where=str(path), code="empty-pcr2")
    return {name: value.lower() for name, value in found.items()}


@click.command("check")
@IMAGE
@click.option("--eif", type=FILE, help="The image file of the enclave.")
@click.option("--expect", type=FILE, help="Its measurements, as nitro-cli or `eif measure` prints them.")
@blobs_option
@click.option(
    "--style",
    type=STYLES,
    default="nitro-cli",
    show_default=True,
    help="Which style the enclave is said to have.",
)
@nsm_option
@network_options
@image_options
@cache_option
@json_option
def check_command(
    *,
    image: ImagePlace,
    eif: Path | None,
    expect: Path | None,
    blobs: Path | None,
    style: str,
    cache: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Check whether an enclave's image file or measurements are what becomes of a container image.

    Exit 0 when all of it is; 1 when something differs, with the paths, or the file's CRC-32 is wrong; 3 when
    the container image does not decide it (`undecidable`), or kernel and boot ramdisk were not compared
    (`blobs-missing`): for want of --blobs, or with style coattest of a compiled kernel in the cache.

    Style nitro-cli: of --eif only the times of folders that the image does not decide are taken, one for
    each layer and one for the container. Modes and owners have to be those of one of Docker's stores. Style
    coattest: nothing is taken from it; --nsm, --listen and --connect say what it was built with.
    """
    if (eif is None) == (expect is None):
        raise UsageError("name the enclave with --eif or with --expect", hint="one of the two")
    expected = read_expected(expect) if expect is not None else {}
    if style == "coattest":
        refuse_ignored(("blobs",), "for style coattest")
        with opened_image(image, **given) as opened:
            own = opened_own(opened, **given)
            parts = _own_parts(cache)
            verdict = (
                _against(eif, lambda file, layout: check_own_file(own, file, layout, parts), parts)
                if eif is not None
                else check_measured(own.blocks(), expected, parts, KERNEL)
            )
    else:
        refuse_ignored(("nsm", "listen", "connect", "cache"), "for style nitro-cli")
        with opened_tree(image, **given) as tree:
            note_start(tree)
            files = _blobs(tree, blobs)
            verdict = (
                _against(eif, lambda file, layout: check_enclave_file(tree, file, layout, files), files)
                if eif is not None
                else check_registers(tree, expected, files)
            )
    if as_json and not verdict.findings and not verdict.undecided:
        emit_json({**verdict.to_json(), "style": style})
    _tell(image, verdict, style, as_json=as_json)


def _own_parts(cache: Path | None) -> BootParts | None:
    profile = read_profile()
    compiled = kernel.cached(profile, Cache(cache_folder(cache)))
    return None if compiled is None else own_boot_parts(profile, compiled)


def _blobs(tree: ContainerTree, blobs: Path | None) -> BootParts | None:
    if blobs is None:
        return None
    config = tree.image.config
    architecture = config.platform.architecture if config is not None else ""
    return read_blobs(blobs, architecture if architecture in ARCHITECTURES else ARCHITECTURES[0])


def _against(
    eif: Path, check: Callable[[BinaryIO, Layout], ContainerCheck], parts: BootParts | None
) -> ContainerCheck:
    with given_image(eif), open_plain(eif) as file:
        found = read_found_layout(file)
        verdict = check(file, found.layout)
        whole = measure_found(file, found.layout, whole=False)
        if parts is not None and not verdict.findings and not verdict.undecided:
            verdict = verdict.with_more(_other_registers(file, found.layout, parts, whole))
    misread = [note for note in found.notes if note.code in MISREAD]
    if found.version < VERSION:  # it has no metadata, and the rest of the count is the verdict's
        misread = [note for note in misread if note.code != "eif-section-count"]
    faults = (*found.findings, *misread, *crc_findings(found.layout, whole.crc32))
    return replace(verdict, findings=(*faults, *verdict.findings))


def _other_registers(
    file: BinaryIO, layout: Layout, parts: BootParts, whole: ImageMeasurements
) -> tuple[Finding, ...]:
    """What of the registers of the whole file is not what its parts, which are known, have to give."""
    measured = {"PCR0": whole.pcr0, "PCR1": whole.pcr1, "PCR2": whole.pcr2}
    application = layout.of_type(SectionType.RAMDISK)[1]
    return check_measured(section_blocks(file, application), measured, parts, "").findings


OTHER_STYLE = {
    "nitro-cli": "as nitro-cli makes it; was it built by coattest? Then --style coattest",
    "coattest": "as coattest makes it; was it built by nitro-cli? Then --style nitro-cli",
}
"""Of each style: how the enclave was compared, and what to type where it has the other one."""


def _tell(image: ImagePlace, verdict: ContainerCheck, style: str, *, as_json: bool) -> None:
    """Print what is the same. Raises FoundFalse for differences, EnvironmentFailure for what stays open."""
    if not as_json:
        console = out()
        console.print(f"style: {style}")
        for name in verdict.same:
            console.print(f"same: {name}")
        for clock, seconds in verdict.times.items():
            whose = f"layer {clock}" if clock else "the container"
            console.print(f"taken from the image file: the time of {whose}, {seconds}")
        if verdict.store is not None:
            console.print(f"modes and owners as Docker makes them with {verdict.store}")
    where = str(image)
    if verdict.findings:
        first = verdict.findings[0].code
        raise FoundFalse(
            _summed(verdict.findings),
            where=where,
            hint=f"compared {OTHER_STYLE[style]}",
            code=first,
            findings=verdict.findings,
        )
    if verdict.undecided:
        first = verdict.undecided[-1].code
        raise EnvironmentFailure(
            _summed(verdict.undecided), where=where, code=first, findings=verdict.undecided
        )


def _summed(findings: tuple[Finding, ...]) -> str:
    listed = "; ".join(f"{finding.where}: {finding.detail}" for finding in findings[:8])
    more = f"; and {len(findings) - 8} more" if len(findings) > 8 else ""
    return printable(listed + more)
