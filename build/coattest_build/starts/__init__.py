"""Where another enclave starts: working source trees as files of the installed package.

A folder for each kind, and what all kinds share. Names that end in ``.start`` lose it when they are written,
so that no tool takes them for modules of this package; a file that both folders have begins with the shared
part. Kernel, init and their pins are coattest's own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from coattest.errors import UsageError
from coattest.files import make_folder
from coattest_build.image import CONTAINER, IMAGE_FILE, LOCK_FILE, MINIMAL
from coattest_build.inputs.lock import parse_lock
from coattest_build.inputs.names import IMAGE_TEXT

KERNELS = {"python": MINIMAL, "node": CONTAINER, "static": MINIMAL, "container": CONTAINER}
"""The kinds, each with the kernel's profile that it has unless another one is asked for."""
FRAGMENT, INIT = "kernel/x86_64.config", "init/init.c"
OWN_PARTS = (FRAGMENT, INIT, "image.lock")
"""Relative to ``build/`` of a source tree. A wheel has copies of them in ``own/`` (pyproject.toml)."""
CONTAINER_RUN = """\
# The program is a user of its own (a number, or a name of the image's /etc/passwd) that has the NSM's device.
[run]
user = "65534"
nsm = true
"""
"""The beginning of ``[run]`` with the kernel profile ``container``."""
ASKER = "ask.py"
"""Asks the services that the kinds have; a container image has one of its own."""
IGNORED = "/out/\n/run/\n__pycache__/\n"
"""The .gitignore of a tree."""
_HERE = Path(__file__).parent
_CONTAINER = _HERE.parent / "containers/own"


def write_start(kind: str, folder: Path, kernel: str | None = None) -> tuple[str, ...]:
    """Write the tree of one of KERNELS into a folder that is new or empty; returns the relative paths.

    ``kernel`` is a profile in place of the kind's own. Raises UsageError (``not-empty``), and for a service
    that such a kernel does not run.
    """
    profile = kernel or KERNELS[kind]
    if profile == MINIMAL != KERNELS[kind]:
        raise UsageError(
            f"{kind} needs the kernel profile {KERNELS[kind]}",
            hint=f"leave out --kernel {MINIMAL}",
        )
    make_folder(folder)
    if next(folder.iterdir(), None) is not None:
        raise UsageError("the folder is not empty", where=str(folder), code="not-empty")
    texts = {".gitignore": IGNORED}
    for origin in (_HERE / "shared", _HERE / kind):
        for file in sorted(path for path in origin.rglob("*") if path.is_file()):
            path = file.relative_to(origin).as_posix().removesuffix(".start")
            if (kind, path) == ("container", ASKER):
                continue
            texts[path] = texts.get(path, "") + file.read_text()
    name = folder.resolve().name
    texts[IMAGE_FILE] = texts[IMAGE_FILE].replace("@NAME@", name if IMAGE_TEXT.fullmatch(name) else "enclave")
    texts[IMAGE_FILE] = texts[IMAGE_FILE].replace("@KERNEL@", profile)
    if profile == CONTAINER:
        texts[IMAGE_FILE] = texts[IMAGE_FILE].replace("[run]\n", CONTAINER_RUN, 1)
    texts |= {f"build/{part}": text for part, text in kernel_parts(profile).items()}
    texts[LOCK_FILE] = _compilers_pins(own_part("image.lock").read_text())
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return tuple(sorted(texts))


def _compilers_pins(text: str) -> str:
    """A lock with the pins of kernel and toolchain alone."""
    lock = parse_lock(text)
    uses = ((pin, tuple(use for use in pin.use if use != "runtime")) for pin in lock.packages)
    packages = tuple(replace(pin, use=use) for pin, use in uses if use)
    return replace(lock, packages=packages, wheels=()).render()


def kernel_parts(profile: str) -> dict[str, str]:
    """The fragment and init of a kernel's profile, by their path relative to ``build/`` of a source tree.

    The fragment of ``container`` is the auction's with what ordinary programs need on top; its init is one
    file with the network's forwarder, which is a process of init's.
    """
    fragment, init = own_part(FRAGMENT).read_text(), own_part(INIT).read_text()
    if profile == CONTAINER:
        fragment += "\n" + (_CONTAINER / "x86_64.config").read_text()
        init = "\n".join((_CONTAINER / name).read_text() for name in ("forward.c", "init.c"))
    return {FRAGMENT: fragment, INIT: init}


def own_part(part: str) -> Path:
    """A file of coattest's own ``build/``: one of OWN_PARTS, or image.toml."""
    shipped = _HERE / "own" / part
    return shipped if shipped.exists() else _HERE.parents[1] / part  # an editable install has the checkout's
