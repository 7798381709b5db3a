"""An image whose application is the real enclave program on this machine's own Python: runs on the software
host.

It is made in seconds and measured and run like any image. It is not the image that is shipped: that one has
the locked Python of build/image.lock.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import marshal
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
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
LOADED = """
import json, pkgutil, sys, coattest_enclave
for found in pkgutil.walk_packages(coattest_enclave.__path__, "coattest_enclave."):
    __import__(found.name)
print(json.dumps(sorted({each.__file__ for each in sys.modules.values() if getattr(each, "__file__", None)})))
"""
"""Prints the files of every module that the program imports, wherever in it."""
SKIPPED = re.compile(
    "__pycache__|config-.*|ensurepip|lib2to3|idlelib|pydoc_data|(site|dist)-packages|tests?|tkinter"
    "|turtledemo|unittest|asyncio|curses|dbm|distutils|multiprocessing|sqlite3|wsgiref|xml|xmlrpc"
    r"|(_tkinter|_sqlite3|_curses|_curses_panel|readline|_test.*|_codecs_.*|_g?dbm|nis|_ctypes_test)\..*"
)
"""Of the standard library: what no enclave imports, and what else would bring X and Tk along."""
DIRECTORY, FILE, PROGRAM = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFREG | 0o755


def make_python_image(destination: Path, *, marker: bytes = b"decided") -> Path:
    """The image; another ``marker`` is another application, and so another measurement."""
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    backend = Path(_cffi_backend.__file__)
    loaded = _loaded()
    found = {"rootfs": NewEntry("rootfs", DIRECTORY, None)}

    def add(name: str, mode: int, content: Path | bytes | None) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            found.setdefault(f"rootfs/{parent}", NewEntry(f"rootfs/{parent}", DIRECTORY, None))
        content = _stripped(content) if isinstance(content, Path) and ".so" in content.suffixes else content
        found[f"rootfs/{name}"] = NewEntry(f"rootfs/{name}", mode, content)

    def add_module(name: str, path: Path) -> None:
        add(name, FILE, path)
        if path in loaded and path.suffix == ".py":
            add(importlib.util.cache_from_source(name), FILE, _compiled(path, f"/{name}"))

    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "var"):
        add(name, DIRECTORY, None)
    binaries = [interpreter, backend]
    for path in _files(stdlib):
        add_module(_inside(path), path)
        binaries += [path] if path.suffix == ".so" else []
    for package in (cbor2, cffi, cryptography):
        folder = Path(str(package.__file__)).parent
        for path in _files(folder):
            add_module(f"{SITE}/{folder.name}/{path.relative_to(folder)}", path)
            binaries += [path] if path.suffix == ".so" else []
    for beside in [*folder.parent.glob("_cbor2*.so"), backend]:
        add(f"{SITE}/{beside.name}", FILE, beside)
    program = ROOT / "enclave" / "coattest_enclave"
    for path in _files(program):
        add_module(f"{SITE}/coattest_enclave/{path.relative_to(program)}", path)
    for name, path in _libraries(tuple(binaries)).items():
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
        if SKIPPED.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file() and path.suffix not in {".pyc", ".a", ".exe"}:
            yield path


@functools.cache
def _loaded() -> frozenset[Path]:
    """The files of all modules that the enclave program imports on this machine's Python."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True)
    return frozenset(Path(name) for name in json.loads(done.stdout))


@functools.cache
def _compiled(path: Path, name: str) -> bytes:
    """What Python keeps of a module in ``__pycache__``, taken without a look at its source (PEP 552)."""
    code = compile(path.read_bytes(), name, "exec", dont_inherit=True)
    flags = (1).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(code)


@functools.cache
def _stripped(path: Path) -> Path | bytes:
    """A library without its symbols, which are most of a Python, where binutils are installed."""
    if shutil.which("strip") is None:
        return path
    with tempfile.NamedTemporaryFile() as made:
        subprocess.run(["strip", "-o", made.name, path], check=True)
        return Path(made.name).read_bytes()


def _inside(path: Path) -> str:
    return str(path).lstrip("/")


@functools.cache
def _libraries(binaries: tuple[Path, ...]) -> dict[str, Path]:
    """Every shared library that the binaries load, by the path where the loader looks for it."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    names = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, flags=re.MULTILINE)
    inside = str(Path(str(cryptography.__file__)).parent.parent)
    return {name: Path(name).resolve() for name in sorted(names) if not name.startswith(inside)}
