"""Images as other builders write them, and every oddity that Linux takes: from the facts, not from code.

Each case has the ramdisks' bytes, what the enclave sees of them, and what is to be said. ``tree`` has for a
path ``file CONTENT``, ``link TARGET``, ``dir``, ``char``, ``fifo`` .. or ``gone``; other paths may be there.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from support.build.images import (
    CMDLINE,
    DIRECTORY,
    KERNEL,
    METADATA,
    RAMDISK,
    SYMLINK,
    SpecImage,
    archive,
    newc,
    plain,
)

FIFO, CHAR, BLOCK, SOCKET = 0o10644, 0o20666, 0o60660, 0o140755
TRAILER = newc(b"TRAILER!!!", 0)
NITRO_TIME = 1492533000
"""2017-04-18T16:30:00Z: the time that linuxkit gives what it makes itself."""


@dataclass(frozen=True)
class FoundImage:
    """An image, the tree it becomes, and the codes of what is said, each as often as it is said."""

    spec: SpecImage
    tree: Mapping[str, str]
    findings: Sequence[str] = ()
    breaches: Sequence[str] = ()
    image_findings: Sequence[str] = ()
    attributes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """Mode, uid and gid of a path."""


def case(
    ramdisks: Sequence[bytes] | bytes,
    tree: Mapping[str, str],
    findings: Sequence[str] = (),
    breaches: Sequence[str] = (),
    **attributes: tuple[int, int, int],
) -> FoundImage:
    """A case of one or more ramdisks in an image that is otherwise as coattest writes it."""
    disks = (ramdisks,) if isinstance(ramdisks, bytes) else tuple(ramdisks)
    return FoundImage(plain(ramdisks=disks), tree, findings, breaches, attributes=attributes)


# ---------------------------------------------------------------------- the builders


def linuxkit(*entries: tuple[bytes, int, bytes], mtime: int = NITRO_TIME) -> bytes:
    """An archive as linuxkit's writer makes it: lower-case digits, inodes from 721, device 3:1."""
    raw = b""
    for inode, (name, mode, data) in enumerate([*entries, (b"TRAILER!!!", 0, b"")], start=721):
        links = 2 if mode >> 12 == 4 else 1
        time = 0 if name == b"TRAILER!!!" else mtime
        record = newc(name, mode, data, inode=inode, links=links, mtime=time, device=(3, 1, 0, 0))
        raw += record[:110].lower() + record[110:]
    return raw + bytes(-len(raw) % 512)


def nitro_boot() -> bytes:
    """nitro-cli's first ramdisk."""
    return linuxkit((b"dev", DIRECTORY, b""), (b"init", 0o100755, b"\x7fELF"), (b"nsm.ko", 0o100755, b"ko"))


def nitro_application(
    app: bytes = b"import os\nprint('hello')\n", *, work_time: int = NITRO_TIME, extra: bytes = b""
) -> bytes:
    """nitro-cli's second ramdisk: the container's export with slashes, then the fixed part again."""
    first = linuxkit(
        (b"rootfs", DIRECTORY, b""),
        (b"rootfs/bin/", DIRECTORY, b""),
        (b"rootfs/bin/ping", 0o104755, b"setuid"),
        (b"rootfs/app.py", 0o100644, app),
        mtime=work_time,
    )
    last = linuxkit(
        (b"rootfs/dev/", DIRECTORY, b""),
        (b"rootfs/dev/pts/", DIRECTORY, b""),
        (b"rootfs/etc/", DIRECTORY, b""),
        (b"rootfs/etc/resolv.conf", 0o120755, b"/run/resolvconf/resolv.conf"),
        (b"rootfs", DIRECTORY, b""),
        *((b"rootfs/" + name, DIRECTORY, b"") for name in (b"dev", b"run", b"sys", b"var", b"proc", b"tmp")),
        (b"cmd", 0o100644, b"python3\n/app.py\n"),
        (b"env", 0o100644, b"PATH=/bin\n"),
    )
    return first.rstrip(b"\0")[: first.rindex(b"070701")] + extra + last


NITRO_TREE = {
    "dev": "dir",
    "init": "file \x7fELF",
    "nsm.ko": "file ko",
    "rootfs/bin": "dir",
    "rootfs/bin/ping": "file setuid",
    "rootfs/app.py": "file import os\nprint('hello')\n",
    "rootfs/etc/resolv.conf": "link /run/resolvconf/resolv.conf",
    "rootfs/dev/pts": "dir",
    "cmd": "file python3\n/app.py\n",
}


def nitro(application: bytes | None = None, **changes: object) -> SpecImage:
    """An image of nitro-cli: kernel, cmdline, metadata, two ramdisks."""
    ramdisks = (nitro_boot(), nitro_application() if application is None else application)
    arguments = {"metadata": b'{"ImageName":"hello","BuildMetadata":{"BuildTime":"x"}}', "ramdisks": ramdisks}
    return plain(**(arguments | changes))  # type: ignore[arg-type]


def find_cpio(prefix: bytes = b"./") -> bytes:
    """What ``find . | cpio -o -H newc`` makes: a dot, then names, ``./`` before them or not; hard links."""
    return archive(
        newc(b".", DIRECTORY, inode=10, links=3),
        newc(prefix + b"init", 0o100755, b"#!/bin/sh\n", inode=11, mtime=1700000000),
        newc(prefix + b"bin", DIRECTORY, inode=12, links=2),
        newc(prefix + b"bin/a", 0o100755, b"", inode=13, links=2),
        newc(prefix + b"bin/b", 0o100755, b"busybox", inode=13, links=2),
        newc(prefix + b"dev", DIRECTORY, inode=14, links=2),
        newc(prefix + b"dev/console", CHAR, inode=15, device=(0, 0, 5, 1)),
    )


FIND_TREE = {
    "init": "file #!/bin/sh\n",
    "bin/a": "file busybox",
    "bin/b": "file busybox",
    "dev/console": "char",
}


def _version_3() -> SpecImage:
    spec = nitro()
    spec.version = 3
    spec.sections = [each for each in spec.sections if each[0] != METADATA]
    return spec


def _metadata_last() -> SpecImage:
    spec = nitro()
    spec.sections = [each for each in spec.sections if each[0] != METADATA] + [(METADATA, b"{}")]
    return spec


def builders() -> dict[str, FoundImage]:
    """One image for each builder that people use, and the shapes that their versions have."""
    found = {
        "nitro-cli": FoundImage(nitro(), NITRO_TREE, (), ("cpio-mode", "cpio-name")),
        "nitro-cli of EIF version 3": FoundImage(
            _version_3(), NITRO_TREE, (), ("cpio-mode", "cpio-name", "eif-section-count", "eif-version")
        ),
        "eif_build with metadata last": FoundImage(
            _metadata_last(), NITRO_TREE, (), ("cpio-mode", "cpio-name")
        ),
        "enclaver: a layer over nitro-cli's": FoundImage(
            nitro(
                nitro_application(
                    extra=newc(b"rootfs/etc/", DIRECTORY) + newc(b"rootfs/etc/e.yaml", data=b"e")
                )
            ),
            NITRO_TREE | {"rootfs/etc/e.yaml": "file e"},
            (),
            ("cpio-mode", "cpio-name"),
        ),
        "eif_build of find and cpio": case(
            (find_cpio(),), FIND_TREE, (), ("cpio-hard-link", "cpio-name", "cpio-type")
        ),
        "nautilus: names without ./": case(
            (find_cpio(b""),), FIND_TREE, (), ("cpio-hard-link", "cpio-name", "cpio-type")
        ),
        "monzo's aws-nitro-util: two of find's": case(
            (find_cpio(), archive(newc(b"./app", DIRECTORY), newc(b"./app/run", 0o100755, b"run", mtime=1))),
            FIND_TREE | {"app/run": "file run"},
            (),
            ("cpio-hard-link", "cpio-name", "cpio-name", "cpio-type"),
        ),
        "qos: one gzip ramdisk": case(
            gzip.compress(find_cpio(b""), mtime=0),
            FIND_TREE,
            (),
            ("cpio-hard-link", "cpio-name", "cpio-type", "ramdisk-compressed"),
        ),
        "twoliter: xz": case(
            lzma.compress(find_cpio(), check=lzma.CHECK_CRC32),
            FIND_TREE,
            (),
            ("cpio-hard-link", "cpio-name", "cpio-type", "ramdisk-compressed"),
        ),
        "coattest": case(
            (
                archive(newc(b"dev", DIRECTORY), newc(b"init", 0o100755, b"init")),
                archive(newc(b"rootfs", DIRECTORY), newc(b"rootfs/x", data=b"x")),
            ),
            {"init": "file init", "rootfs/x": "file x"},
        ),
    }
    aarch64 = nitro()
    aarch64.flags = 1
    found["nitro-cli for aarch64"] = FoundImage(aarch64, NITRO_TREE, (), ("cpio-mode", "cpio-name"))
    many = nitro()
    many.sections += [(RAMDISK, archive(newc(b"more%d" % n, data=b"m"))) for n in range(20)]
    found["many ramdisks"] = FoundImage(
        many, NITRO_TREE | {"more19": "file m"}, (), ("cpio-mode", "cpio-name")
    )
    return found


# ---------------------------------------------------------------------- oddities of names and kinds

DIR, FILE = newc(b"d", DIRECTORY), newc(b"f", data=b"one")


def names() -> dict[str, FoundImage]:
    """Names as Linux resolves them."""
    long = b"n" * 255
    return {
        "a trailing slash": case(archive(newc(b"d/", DIRECTORY)), {"d": "dir"}, (), ("cpio-name",)),
        "a file with a trailing slash": case(
            archive(newc(b"f/", data=b"x")), {"f": "gone"}, ("ramdisk-dropped",), ("cpio-name",)
        ),
        "./": case(archive(newc(b"./f", data=b"x")), {"f": "file x"}, (), ("cpio-name",)),
        "an absolute name": case(archive(newc(b"/f", data=b"x")), {"f": "file x"}, (), ("cpio-name",)),
        "two slashes": case(archive(DIR, newc(b"d//f", data=b"x")), {"d/f": "file x"}, (), ("cpio-name",)),
        "a dot": case(
            archive(newc(b".", 0o40700, uid=5)), {"/": "dir"}, (), ("cpio-name",), **{"/": (0o40700, 5, 0)}
        ),
        "two dots": case(archive(DIR, newc(b"d/../f", data=b"x")), {"f": "file x"}, (), ("cpio-traversal",)),
        "two dots above the root": case(
            archive(newc(b"../../f", data=b"x")), {"f": "file x"}, (), ("cpio-traversal",)
        ),
        "a name that ends at a zero": case(
            archive(newc(b"f\0hidden", data=b"x")), {"f": "file x"}, (), ("cpio-padding",)
        ),
        "a trailer that goes on after a zero": case(
            archive(newc(b"TRAILER!!!\0x", 0), newc(b"f", data=b"x"), newc(b"g", data=b"y")),
            {"f": "file x", "g": "file y"},
        ),
        "not UTF-8": case(archive(newc(b"\xff", data=b"x")), {"\\xff": "file x"}, (), ("cpio-name",)),
        "an empty name": case(archive(newc(b"", data=b"x"), FILE), {"f": "file one"}, ("ramdisk-dropped",)),
        "no name": case(
            archive(FILE, newc(b"", data=b"", name_size=0)[:110] + b"\0\0" + FILE),
            {"f": "file one"},
            ("ramdisk-dropped",),
            ("cpio-duplicate",),
        ),
        "255 bytes": case(archive(newc(long, data=b"x")), {long.decode(): "file x"}),
        "256 bytes": case(
            archive(newc(long + b"n", data=b"x"), FILE), {"f": "file one"}, ("ramdisk-dropped",)
        ),
        "a directory of 256 bytes": case(
            archive(newc(long + b"n", DIRECTORY), FILE), {"f": "file one"}, ("ramdisk-dropped",)
        ),
        "4096 bytes": case(
            archive(FILE, newc(b"./" * 2047 + b"g", data=b"x")), {"g": "file x"}, (), ("cpio-name",)
        ),
        "4097 bytes": case(
            archive(FILE, newc(b"./" * 2048 + b"g", data=b"x"), newc(b"h", data=b"y")),
            {"g": "gone", "h": "file y"},
            ("ramdisk-dropped",),
        ),
        "a name without a zero": case(
            archive(FILE, newc(b"abcd", data=b"x", name_size=4, name_padding=b"")[:114] + bytes(2)),
            {"f": "file one", "abcd": "gone"},
            ("ramdisk-some-kernels", "ramdisk-stopped"),
        ),
        "a missing parent": case(
            archive(newc(b"no/f", data=b"x"), FILE), {"no": "gone", "f": "file one"}, ("ramdisk-dropped",)
        ),
        "a file as a parent": case(
            archive(FILE, newc(b"f/g", data=b"x")), {"f": "file one"}, ("ramdisk-dropped",)
        ),
        "a parent that is a link": case(
            archive(DIR, newc(b"l", SYMLINK, b"d"), newc(b"l/f", data=b"x")), {"d/f": "file x", "l": "link d"}
        ),
        "a parent that is an absolute link": case(
            archive(DIR, newc(b"l", SYMLINK, b"/d"), newc(b"l/f", data=b"x")), {"d/f": "file x"}
        ),
        "a parent that is a link to itself": case(
            archive(newc(b"l", SYMLINK, b"l"), newc(b"l/f", data=b"x")), {"l": "link l"}, ("ramdisk-dropped",)
        ),
        "a parent that leads nowhere": case(
            archive(newc(b"l", SYMLINK, b"no"), newc(b"l/f", data=b"x")),
            {"l": "link no"},
            ("ramdisk-dropped",),
        ),
        "a directory with a slash over a link": case(
            archive(DIR, newc(b"l", SYMLINK, b"d"), newc(b"l/", 0o40700, uid=7)),
            {"l": "link d", "d": "dir"},
            (),
            ("cpio-name",),
            d=(0o40700, 7, 0),
        ),
        "a directory over a link": case(
            archive(DIR, newc(b"l", SYMLINK, b"d"), newc(b"l", DIRECTORY)),
            {"l": "dir"},
            (),
            ("cpio-duplicate",),
        ),
    }


def kinds() -> dict[str, FoundImage]:
    """Types, modes, links, and entries that replace others."""
    return {
        "setuid": case(
            archive(newc(b"s", 0o104755, b"x")), {"s": "file x"}, (), ("cpio-mode",), s=(0o104755, 0, 0)
        ),
        "a device": case(
            archive(newc(b"c", CHAR, device=(0, 0, 1, 3))), {"c": "char"}, (), ("cpio-type",), c=(CHAR, 0, 0)
        ),
        "a block device": case(archive(newc(b"b", BLOCK)), {"b": "block"}, (), ("cpio-type",)),
        "a FIFO": case(archive(newc(b"p", FIFO)), {"p": "fifo"}, (), ("cpio-type",)),
        "a socket": case(archive(newc(b"s", SOCKET)), {"s": "socket"}, (), ("cpio-type",)),
        "a directory with content": case(
            archive(newc(b"d", DIRECTORY, b"data"), FILE),
            {"d": "gone", "f": "file one"},
            ("ramdisk-dropped",),
        ),
        "a device with content": case(
            archive(newc(b"c", CHAR, b"data"), FILE), {"c": "gone", "f": "file one"}, ("ramdisk-dropped",)
        ),
        "no type": case(archive(newc(b"x", 0o644)), {"x": "gone"}, ("ramdisk-dropped",), ("cpio-type",)),
        "no type, over a file": case(
            archive(FILE, newc(b"f", 0o644)), {"f": "gone"}, ("ramdisk-dropped",), ("cpio-type",)
        ),
        "owner and mode bits above sixteen": case(
            archive(newc(b"f", 0xFFFF0000 | 0o100640, b"x", uid=70000, gid=2**32 - 1)),
            {"f": "file x"},
            (),
            (),
            f=(0o100640, 70000, 0),
        ),
        "a file twice": case(
            archive(FILE, newc(b"f", 0o100600, b"two")),
            {"f": "file two"},
            (),
            ("cpio-duplicate",),
            f=(0o100600, 0, 0),
        ),
        "a file twice, empty at last": case(
            archive(FILE, newc(b"f")), {"f": "file "}, (), ("cpio-duplicate",)
        ),
        "a directory twice": case(
            archive(DIR, newc(b"d/f", data=b"x"), newc(b"d", 0o40700, uid=3)),
            {"d/f": "file x"},
            (),
            (),
            d=(0o40700, 3, 0),
        ),
        "a file over an empty directory": case(
            archive(DIR, newc(b"d", data=b"x")), {"d": "file x"}, (), ("cpio-duplicate",)
        ),
        "a file over a full directory": case(
            archive(DIR, newc(b"d/f", data=b"y"), newc(b"d", data=b"x")),
            {"d/f": "file y"},
            ("ramdisk-dropped",),
        ),
        "a link over a full directory": case(
            archive(DIR, newc(b"d/f", data=b"y"), newc(b"d", SYMLINK, b"x", uid=9)),
            {"d/f": "file y"},
            ("ramdisk-dropped",),
            (),
            d=(0o40755, 9, 0),
        ),
        "a link over a file": case(
            archive(FILE, newc(b"f", SYMLINK, b"x")), {"f": "link x"}, (), ("cpio-duplicate",)
        ),
        "a file over a link": case(
            archive(DIR, newc(b"l", SYMLINK, b"d"), newc(b"l", data=b"x")),
            {"l": "file x", "d": "dir"},
            (),
            ("cpio-duplicate",),
        ),
        "a link without a target": case(
            archive(DIR, newc(b"d/l", SYMLINK), newc(b"d/l/f", data=b"x")), {"d/l": "link ", "d/f": "file x"}
        ),
        "a target that ends at a zero": case(archive(newc(b"l", SYMLINK, b"a\0b")), {"l": "link a"}),
        "a target of 4097 bytes": case(
            archive(FILE, newc(b"l", SYMLINK, b"t" * 4097), newc(b"g", data=b"y")),
            {"l": "gone", "g": "file y"},
            ("ramdisk-dropped",),
        ),
        "hard links, body first": case(
            archive(newc(b"a", data=b"body", links=2), newc(b"b", links=2)),
            {"a": "file body", "b": "file body"},
            (),
            ("cpio-hard-link",),
        ),
        "hard links, the last body wins": case(
            archive(newc(b"a", data=b"first", links=2), newc(b"b", data=b"2nd", links=2)),
            {"a": "file 2nd", "b": "file 2nd"},
            (),
            ("cpio-hard-link",),
        ),
        "hard links of another device": case(
            archive(newc(b"a", data=b"first", links=2), newc(b"b", data=b"2", links=2, device=(1, 0, 0, 0))),
            {"a": "file first", "b": "file 2"},
        ),
        "hard links forgotten at a trailer": case(
            archive(newc(b"a", data=b"first", links=2)) + archive(newc(b"b", data=b"2", links=2)),
            {"a": "file first", "b": "file 2"},
        ),
        "hard links over two ramdisks without a trailer": case(
            (archive(newc(b"a", data=b"first", links=2), trailer=False), archive(newc(b"b", links=2))),
            {"a": "file first", "b": "file first"},
            (),
            ("cpio-hard-link",),
        ),
        "a hard link to itself": case(
            archive(newc(b"a", data=b"first", links=2), newc(b"a", data=b"2", links=2)),
            {"a": "gone"},
            ("ramdisk-dropped",),
            ("cpio-hard-link",),
        ),
        "a hard link to what was replaced": case(
            archive(
                newc(b"a", data=b"1", links=2), newc(b"a", SYMLINK, b"x"), newc(b"b", data=b"2", links=2)
            ),
            {"a": "link x", "b": "link x", "x": "file 2"},
            (),
            ("cpio-duplicate", "cpio-hard-link"),
        ),
        "writing through a hard link": case(
            archive(newc(b"a", data=b"1", links=2), newc(b"b", links=2), newc(b"a", data=b"new")),
            {"a": "file new", "b": "file new"},
            (),
            ("cpio-duplicate", "cpio-hard-link"),
        ),
        "linked devices": case(
            archive(newc(b"a", CHAR, links=2), newc(b"b", CHAR, links=2)),
            {"a": "char", "b": "char"},
            (),
            ("cpio-hard-link", "cpio-type"),
        ),
    }


def archives() -> dict[str, FoundImage]:
    """Headers, padding, trailers, several archives, compression and several ramdisks."""
    packed = gzip.compress(archive(newc(b"g", data=b"gz")), mtime=0)
    compressed = ("ramdisk-compressed",)
    return {
        "entries after the trailer": case(archive(FILE, TRAILER, newc(b"g", data=b"x")), {"g": "file x"}),
        "no trailer": case(archive(FILE, trailer=False), {"f": "file one"}),
        "a trailer with content": case(
            archive(newc(b"TRAILER!!!", 0o100644, b"data"), FILE), {"f": "file one"}, (), ("cpio-trailer",)
        ),
        "padding of any length": case(
            bytes(40) + archive(FILE) + bytes(4096) + archive(newc(b"g", data=b"x")) + bytes(4),
            {"g": "file x"},
        ),
        "no padding at all": case(
            FILE + newc(b"TRAILER!!!", 0)[:-1], {"f": "file one"}, (), ("cpio-truncated",)
        ),
        "padding that is not zeros": case(
            archive(newc(b"f", data=b"one", data_padding=b"x"), newc(b"g", data=b"2")), {"g": "file 2"}
        ),
        "an archive at an odd place": case(
            archive(FILE) + b"\0" + archive(newc(b"g", data=b"x")),
            {"f": "file one", "g": "gone"},
            ("ramdisk-stopped",),
        ),
        "junk after the trailer": case(archive(FILE) + b"junk", {"f": "file one"}, ("ramdisk-stopped",)),
        "lower-case digits": case(linuxkit((b"f", 0o100644, b"one")), {"f": "file one"}),
        "a field with another character": case(
            archive(newc(b"f", data=b"x").replace(b"000081A4", b"000081 4", 1), newc(b"g", data=b"y")),
            {"g": "file y"},
            ("ramdisk-some-kernels", "ramdisk-dropped"),
            (),
        ),
        "a field with 0x": case(
            archive(newc(b"f", data=b"x").replace(b"000081A4", b"0x0081A4", 1)),
            {"f": "file x"},
            ("ramdisk-some-kernels",),
        ),
        "a checksum": case(
            archive(newc(b"f", data=b"ab", magic=b"070702", check=97 + 98)),
            {"f": "file ab"},
            ("ramdisk-some-kernels",),
        ),
        "a wrong checksum": case(
            archive(newc(b"f", data=b"ab", magic=b"070702", check=1), newc(b"g", data=b"y")),
            {"f": "file ab", "g": "gone"},
            ("ramdisk-some-kernels", "ramdisk-stopped"),
        ),
        "the old format": case(b"070707" + bytes(200), {"f": "gone"}, ("ramdisk-stopped",)),
        "a file that ends early": case(
            newc(b"f", data=b"one", size=8)[:-1],
            {"f": "file one\0\0\0\0\0"},
            ("ramdisk-dropped",),
            ("cpio-truncated",),
        ),
        "a file that swallows the next ramdisk": case(
            (newc(b"f", data=b"one.", size=4 + 512), archive(FILE)[:512]),
            {"f": "file one." + archive(FILE)[:512].decode()},
        ),
        "gzip": case(packed, {"g": "file gz"}, (), compressed),
        "gzip after an archive": case(
            archive(FILE) + packed, {"f": "file one", "g": "file gz"}, (), compressed
        ),
        "gzip at an odd place": case(
            archive(FILE) + b"\0" + packed, {"f": "file one", "g": "gone"}, ("ramdisk-stopped",)
        ),
        "gzip, then an archive": case(
            packed + bytes(-len(packed) % 4) + archive(FILE),
            {"g": "file gz", "f": "file one"},
            (),
            compressed,
        ),
        "two gzip members": case(
            packed + gzip.compress(archive(newc(b"h", data=b"2")), mtime=0),
            {"g": "file gz", "h": "file 2"},
            (),
            ("ramdisk-compressed",),
        ),
        "gzip that ends early": case(packed[:-9], {"g": "file gz"}, ("ramdisk-stopped",), compressed),
        "gzip with junk in it": case(
            gzip.compress(archive(FILE) + b"junk", mtime=0),
            {"f": "file one"},
            ("ramdisk-stopped",),
            compressed,
        ),
        "gzip of a cut archive": case(
            gzip.compress(archive(FILE)[:60], mtime=0), {"f": "gone"}, ("ramdisk-stopped",), compressed
        ),
        "xz": case(lzma.compress(archive(FILE), check=lzma.CHECK_CRC32), {"f": "file one"}, (), compressed),
        "bzip2, which is not read here": case(b"BZh91AY", {"f": "gone"}, ("ramdisk-stopped",)),
        "no archive at all": case(b"\x7fELF" * 20, {"f": "gone"}, ("ramdisk-stopped",)),
        "a later ramdisk replaces init": case(
            (nitro_boot(), archive(newc(b"init", 0o100755, b"evil"))),
            {"init": "file evil"},
            ("ramdisk-overwrite",),
        ),
        "a later ramdisk replaces init by a link": case(
            (nitro_boot(), archive(newc(b"init", SYMLINK, b"evil"))),
            {"init": "link evil"},
            ("ramdisk-overwrite",),
        ),
        "a later ramdisk replaces a file through a link": case(
            (
                archive(newc(b"init", data=b"good"), newc(b"l", SYMLINK, b"/")),
                archive(newc(b"l/init", data=b"evil")),
            ),
            {"init": "file evil"},
            ("ramdisk-overwrite",),
        ),
        "a later ramdisk changes a directory": case(
            (archive(DIR), archive(newc(b"d", 0o40777, uid=1))),
            {"d": "dir"},
            ("ramdisk-overwrite",),
            (),
            d=(0o40777, 1, 0),
        ),
        "the same directory in two ramdisks": case((archive(DIR), archive(DIR)), {"d": "dir"}),
        "a later ramdisk deletes a file": case(
            (archive(FILE), archive(newc(b"f", 0o644))), {"f": "gone"}, ("ramdisk-overwrite",), ("cpio-type",)
        ),
    }


def structures() -> dict[str, FoundImage]:
    """Images whose sections are not as coattest writes them."""
    tree = {"init": "file \x7fELF"}
    usual = ("cpio-mode", "cpio-name")

    def bent(notes: Sequence[str] = (), findings: Sequence[str] = (), **changes: object) -> FoundImage:
        spec = nitro()
        for name, value in changes.items():
            setattr(spec, name, value)
        return FoundImage(spec, tree, (), sorted([*usual, *notes]), findings)

    cmdline_last = nitro()
    cmdline_last.sections = [each for each in cmdline_last.sections if each[0] != CMDLINE]
    cmdline_last.sections.append((CMDLINE, b"quiet"))
    two_kernels = nitro()
    two_kernels.sections.append((KERNEL, b"kernel"))
    long = nitro(cmdline=b"a" * 3000)
    return {
        "unknown flags": bent(("eif-flags",), flags=6),
        "reserved fields": bent(("eif-reserved",), reserved=1),
        "section flags": bent(("eif-section-flags",), ("eif-two-readings",), section_flags={1: 1}),
        "bytes at the end": bent(("eif-trailing",), ("eif-crc",), trailing=b"x" * 5),
        "a section of no type at the end": bent(
            ("eif-section-type",), ("eif-crc",), trailing=b"\0\x09" + bytes(20)
        ),
        "a gap that the table knows": bent(
            ("eif-gap", "eif-section-type"), ("eif-two-readings", "eif-crc"), gaps={3: b"\xff" * 12}
        ),
        "a stale table": bent((), ("eif-two-readings",), sizes={2: 1}),
        "a wrong CRC-32": bent((), ("eif-crc",), crc=1),
        "cmdline last": FoundImage(cmdline_last, tree, (), sorted([*usual, "eif-section-order"])),
        "two kernels": FoundImage(
            two_kernels, tree, (), sorted([*usual, "eif-section-count", "eif-section-order"])
        ),
        "a long cmdline": FoundImage(long, tree, (), sorted([*usual, "eif-section-size"])),
    }


def found_images() -> dict[str, FoundImage]:
    """Every case by name."""
    return builders() | names() | kinds() | archives() | structures()
