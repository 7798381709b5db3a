"""An image whose application is the real enclave program on this machine's own Python: runs on the software
host.

It is made in seconds and measured and run like any image. It is not the image that is shipped: that one has
the locked Python of build/image.lock.
"""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import _cffi_backend
import cbor2
import cffi
import cryptography

from coattest_build.formats.cpio import NewEntry
from support.enclave.enclave_image import make_image

ROOT = Path(__file__).resolve().parents[3]
SITE = "usr/lib/coattest"
SKIPPED = {
    "__pycache__",
    "config-3.10-x86_64-linux-gnu",
    "config-3.11-x86_64-linux-gnu",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
    "unittest",
}
DIRECTORY, FILE, PROGRAM = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFREG | 0o755


def make_python_image(destination: Path, *, marker: bytes = b"decided") -> Path:
    """The image; another ``marker`` is another application, and so another measurement."""
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    backend = Path(_cffi_backend.__file__)
    found = {"rootfs": NewEntry("rootfs", DIRECTORY, None)}

    def add(name: str, mode: int, content: Path | bytes | None) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            found.setdefault(f"rootfs/{parent}", NewEntry(f"rootfs/{parent}", DIRECTORY, None))
        found[f"rootfs/{name}"] = NewEntry(f"rootfs/{name}", mode, content)

    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "var"):
        add(name, DIRECTORY, None)
    binaries = [interpreter, backend]
    for path in _files(stdlib):
        add(_inside(path), FILE, path)
        binaries += [path] if path.suffix == ".so" else []
    for package in (cbor2, cffi, cryptography):
        folder = Path(str(package.__file__)).parent
        for path in _files(folder):
            add(f"{SITE}/{folder.name}/{path.relative_to(folder)}", FILE, path)
            binaries += [path] if path.suffix == ".so" else []
    for beside in [*folder.parent.glob("_cbor2*.so"), backend]:
        add(f"{SITE}/{beside.name}", FILE, beside)
    program = ROOT / "enclave" / "coattest_enclave"
    for path in _files(program):
        add(f"{SITE}/coattest_enclave/{path.relative_to(program)}", FILE, path)
    for name, path in sorted(_libraries(binaries).items()):
        add(name.lstrip("/"), PROGRAM, path)
    add(_inside(interpreter), PROGRAM, interpreter)
    add("etc/coattest/trust.json", FILE, ROOT / "enclave" / "profiles" / "local.json")
    add("etc/marker", FILE, marker)
    return make_image(
        destination,
        [found[name] for name in sorted(found)],
        cmd=(str(interpreter), "-m", "coattest_enclave"),
        env=(
            "PATH=/usr/bin",
            f"PYTHONPATH=/{SITE}",
            f"PYTHONHOME={sys.base_prefix}",
            "PYTHONDONTWRITEBYTECODE=1",
        ),
    )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in SKIPPED:
            yield from _files(path)
        elif path.is_file() and path.suffix not in {".pyc", ".a", ".exe"}:
            yield path


def _inside(path: Path) -> str:
    return str(path).lstrip("/")


def _libraries(binaries: list[Path]) -> dict[str, Path]:
    """Every shared library that the binaries load, by the path where the loader looks for it."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    names = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, flags=re.MULTILINE)
    inside = str(Path(str(cryptography.__file__)).parent.parent)
    return {name: Path(name).resolve() for name in names if not name.startswith(inside)}
