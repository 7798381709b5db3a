"""The EIF reader accepts what both of the format's readers see alike, and the writer writes just that."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from coattest.errors import CoattestError, UsageError
from coattest_build.formats import eif
from coattest_build.formats.eif import ImageError, SectionType, write_image
from support.build.images import CMDLINE, HEADER, KERNEL, METADATA, RAMDISK, SIGNATURE, SpecImage, plain
from support.enclave.enclave_image import read_layout


def refusal(image: bytes) -> str:
    """The reason for which the reader refuses the image."""
    with pytest.raises(ImageError) as caught:
        read_layout(io.BytesIO(image))
    return caught.value.code


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    """Files to make an image of."""
    paths = {name: tmp_path / name for name in ("kernel", "boot", "application")}
    for name, path in paths.items():
        path.write_bytes(name.encode() * 1000)
    return paths


def written(parts: dict[str, Path], out: Path, **changes: object) -> bytes:
    """The bytes of an image of the parts."""
    arguments: dict[str, object] = {
        "kernel": parts["kernel"],
        "cmdline": b"reboot=k",
        "metadata": b"{}",
        "ramdisks": [parts["boot"], parts["application"]],
    }
    write_image(out, **(arguments | changes))  # type: ignore[arg-type]
    return out.read_bytes()


def expected(parts: dict[str, Path]) -> SpecImage:
    """The image of the same parts by the specification."""
    ramdisks = (parts["boot"].read_bytes(), parts["application"].read_bytes())
    return plain(parts["kernel"].read_bytes(), b"reboot=k", b"{}", ramdisks)


def test_writer_follows_the_specification(parts: dict[str, Path], tmp_path: Path) -> None:
    """The writer's bytes are those that the specification gives for the same sections."""
    assert written(parts, tmp_path / "out.eif") == expected(parts).build()


def test_writer_marks_the_architecture(parts: dict[str, Path], tmp_path: Path) -> None:
    """An image for aarch64 differs in its flag and CRC only."""
    image = expected(parts)
    image.flags = 1
    assert written(parts, tmp_path / "out.eif", aarch64=True) == image.build()
    assert read_layout(io.BytesIO(image.build())).architecture == "aarch64"


def test_writer_appends_a_signature(parts: dict[str, Path], tmp_path: Path) -> None:
    """A signature becomes the last section."""
    image = expected(parts)
    image.sections.append((SIGNATURE, b"anything"))
    assert written(parts, tmp_path / "out.eif", signature=b"anything") == image.build()


def test_reader_returns_what_is_there() -> None:
    """Types, offsets and sizes are those of the data in the file."""
    image = plain()
    raw = image.build()
    layout = read_layout(io.BytesIO(raw))
    assert [section.type for section in layout.sections] == [kind for kind, _ in image.sections]
    assert [raw[s.offset : s.offset + s.size] for s in layout.sections] == [
        data for _, data in image.sections
    ]
    assert (layout.default_memory, layout.default_cpus, layout.file_size) == (1 << 30, 2, len(raw))
    assert [section.label for section in SectionType] == [
        "kernel",
        "cmdline",
        "ramdisk",
        "signature",
        "metadata",
    ]


def test_metadata_may_come_anywhere() -> None:
    """Metadata is not measured, so its place is free, as in AWS's reader."""
    image = plain()
    image.sections.insert(0, image.sections.pop(2))
    assert read_layout(io.BytesIO(image.build())).sections[0].type is SectionType.METADATA


SECTIONS = plain().sections
END = len(plain().build())


def bent(**changes: object) -> SpecImage:
    """The plain image with fields changed."""
    image = plain()
    for name, value in changes.items():
        setattr(image, name, value)
    return image


REFUSED: dict[str, tuple[SpecImage, str]] = {
    "another magic": (bent(magic=b".EIF"), "eif-magic"),
    "version 3, which has no metadata": (bent(version=3), "eif-version"),
    "version 5": (bent(version=5), "eif-version"),
    "an unknown header flag": (bent(flags=2), "eif-flags"),
    "reserved field set": (bent(reserved=1), "eif-reserved"),
    "unused field set": (bent(unused=1), "eif-reserved"),
    "no sections": (bent(count=0), "eif-limit"),
    "33 sections": (bent(count=33), "eif-limit"),
    "an offset in an unused slot": (bent(offsets={5: 600}), "eif-reserved"),
    "a size in an unused slot": (bent(sizes={31: 1}), "eif-reserved"),
    "fewer sections in the table than in the file": (
        bent(count=4, offsets={4: 0}, sizes={4: 0}),
        "eif-trailing",
    ),
    "more sections in the table than in the file": (bent(count=6, offsets={5: END}), "eif-truncated"),
    "a table that points into a section": (bent(offsets={1: HEADER + 20}), "eif-overlap"),
    "a table that swaps two sections": (
        bent(offsets={3: END - 5512, 4: END - 6724}),
        "eif-gap",
    ),
    "a first section that leaves a gap": (bent(gaps={0: b"hidden"}), "eif-gap"),
    "a gap before a ramdisk": (bent(gaps={4: bytes(12)}), "eif-gap"),
    "a table size smaller than the header's": (bent(sizes={0: 599}), "eif-table"),
    "a table size greater than the header's": (bent(sizes={4: 5501}), "eif-table"),
    "a header size that ends in the next section": (
        bent(header_sizes={0: 612}, sizes={0: 612}),
        "eif-overlap",
    ),
    "a size beyond the file": (bent(header_sizes={4: 1 << 40}, sizes={4: 1 << 40}), "eif-truncated"),
    "a size of 2**64 - 1": (bent(header_sizes={0: 2**64 - 1}, sizes={0: 2**64 - 1}), "eif-truncated"),
    "section flags": (bent(section_flags={3: 1}), "eif-section-flags"),
    "section type 0": (bent(sections=[(0, b"x"), *SECTIONS]), "eif-section-type"),
    "section type 6": (bent(sections=[*SECTIONS, (6, b"x")]), "eif-section-type"),
    "trailing bytes": (bent(trailing=b"\0"), "eif-trailing"),
    "a trailing section that the table does not know": (
        bent(trailing=struct.pack(">HHQ", RAMDISK, 0, 4) + b"evil"),
        "eif-trailing",
    ),
    "a wrong CRC": (bent(crc=0), "eif-crc"),
    "no kernel": (bent(sections=SECTIONS[1:]), "eif-section-count"),
    "two kernels": (bent(sections=[SECTIONS[0], *SECTIONS]), "eif-section-count"),
    "no cmdline": (bent(sections=[SECTIONS[0], *SECTIONS[2:]]), "eif-section-count"),
    "two cmdlines": (bent(sections=[*SECTIONS[:2], *SECTIONS[1:]]), "eif-section-count"),
    "no metadata": (bent(sections=[*SECTIONS[:2], *SECTIONS[3:]]), "eif-section-count"),
    "two metadata": (bent(sections=[*SECTIONS, (METADATA, b"{}")]), "eif-section-count"),
    "no ramdisk": (bent(sections=SECTIONS[:3]), "eif-section-count"),
    "a ramdisk before the kernel": (bent(sections=[(RAMDISK, b"x"), *SECTIONS]), "eif-section-order"),
    "a cmdline after a ramdisk": (
        bent(sections=[SECTIONS[0], SECTIONS[2], SECTIONS[3], SECTIONS[1]]),
        "eif-section-order",
    ),
    "a cmdline before the kernel": (
        bent(sections=[SECTIONS[1], SECTIONS[0], *SECTIONS[2:]]),
        "eif-section-order",
    ),
    "two signatures": (bent(sections=[*SECTIONS, (SIGNATURE, b"a"), (SIGNATURE, b"b")]), "eif-section-order"),
    "a signature before a ramdisk": (
        bent(sections=[*SECTIONS[:4], (SIGNATURE, b"a"), SECTIONS[4]]),
        "eif-section-order",
    ),
    "an empty kernel": (bent(sections=[(KERNEL, b""), *SECTIONS[1:]]), "eif-section-size"),
    "an empty ramdisk": (bent(sections=[*SECTIONS, (RAMDISK, b"")]), "eif-section-size"),
    "a cmdline longer than the kernel reads": (
        bent(sections=[SECTIONS[0], (CMDLINE, b"a" * 2049), *SECTIONS[2:]]),
        "eif-section-size",
    ),
    "metadata without bound": (
        bent(sections=[*SECTIONS[:2], (METADATA, b" " * ((1 << 20) + 1)), *SECTIONS[3:]]),
        "eif-section-size",
    ),
    "a signature without bound": (bent(sections=[*SECTIONS, (SIGNATURE, b"a" * 32769)]), "eif-section-size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_reader_refuses(name: str) -> None:
    """Each image that breaks one rule is refused for that rule."""
    image, reason = REFUSED[name]
    assert refusal(image.build()) == reason


def test_every_truncation_is_refused() -> None:
    """No proper prefix of an image is an image."""
    whole = plain(kernel=b"k" * 20, ramdisks=(b"r" * 20,)).build()
    for length in range(len(whole)):
        assert refusal(whole[:length]) == "eif-truncated"


def test_every_flipped_bit_is_refused() -> None:
    """No single flipped bit is accepted: the CRC covers every byte that no other rule covers."""
    whole = plain(kernel=b"k" * 20, ramdisks=(b"r" * 20,)).build()
    for index in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[index] ^= 1 << bit
            with pytest.raises(ImageError):
                read_layout(io.BytesIO(bytes(changed)))


def test_errors_name_the_file(tmp_path: Path) -> None:
    """An error says which file it is about."""
    (tmp_path / "no.eif").write_bytes(b"no")
    with (tmp_path / "no.eif").open("rb") as file, pytest.raises(ImageError, match=r"no\.eif: not an EIF"):
        read_layout(file)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cmdline": b""}, "eif-section-size"),
        ({"cmdline": b"a" * 2049}, "eif-section-size"),
        ({"metadata": b""}, "eif-section-size"),
        ({"ramdisks": []}, "eif-section-count"),
        ({"signature": b""}, "eif-section-size"),
    ],
)
def test_writer_refuses_what_the_reader_would(
    parts: dict[str, Path], tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    """The writer raises a usage error for parts of which no valid image can be made, and writes nothing."""
    out = tmp_path / "out" / "image.eif"
    with pytest.raises(UsageError) as caught:
        written(parts, out, **changes)
    assert caught.value.code == reason
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_writer_refuses_more_ramdisks_than_fit(parts: dict[str, Path], tmp_path: Path) -> None:
    """More than 32 sections do not fit into the table."""
    with pytest.raises(UsageError) as caught:
        written(parts, tmp_path / "out.eif", ramdisks=[parts["boot"]] * 30)
    assert caught.value.code == "eif-limit"


def test_failed_write_leaves_the_old_image(parts: dict[str, Path], tmp_path: Path) -> None:
    """When a source cannot be read, what was under the destination's name stays, and nothing else."""
    out = tmp_path / "out" / "image.eif"
    before = written(parts, out)

    def failing() -> list[bytes]:
        raise OSError(5, "Input/output error")

    broken = eif.Part(SectionType.KERNEL, 10, failing)
    rest = [
        eif.Part.of_bytes(SectionType.CMDLINE, b"a"),
        eif.Part.of_bytes(SectionType.METADATA, b"{}"),
        eif.Part.of_bytes(SectionType.RAMDISK, b"r"),
    ]
    with pytest.raises(OSError, match="Input/output"):
        eif.write_parts(out, [broken, *rest], flags=0)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_source_that_changes_is_noticed(tmp_path: Path) -> None:
    """A part that yields another number of bytes than it announced is not written."""
    wrong = eif.Part(SectionType.KERNEL, 10, lambda: [b"short"])
    rest = [
        eif.Part.of_bytes(SectionType.CMDLINE, b"a"),
        eif.Part.of_bytes(SectionType.METADATA, b"{}"),
        eif.Part.of_bytes(SectionType.RAMDISK, b"r"),
    ]
    with pytest.raises(CoattestError) as caught:
        eif.write_parts(tmp_path / "out.eif", [wrong, *rest], flags=0)
    assert caught.value.code == "eif-source-changed"
    assert not list(tmp_path.iterdir())


def test_large_sections_are_read_in_blocks() -> None:
    """The whole content of a kernel or ramdisk cannot be asked for by mistake."""
    raw = io.BytesIO(plain().build())
    with pytest.raises(ValueError, match="in blocks"):
        eif.section_content(raw, read_layout(raw).sections[0])


def test_file_that_shrinks_is_noticed() -> None:
    """A section that ends early while it is read is an error, not a short result."""
    raw = io.BytesIO(plain().build())
    section = read_layout(raw).sections[-1]
    raw.truncate(section.offset + 1)
    blocks: Callable[[], list[bytes]] = lambda: list(eif.section_blocks(raw, section))  # noqa: E731
    with pytest.raises(ImageError, match="shorter"):
        blocks()
