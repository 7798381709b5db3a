"""The modules of local/qemu-compiler, which is a script and no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[3] / "local" / "qemu-compiler"


def load(name: str) -> ModuleType:
    """One of its modules, under its own name where another imports it; PyPA's build has that name already."""
    spec = importlib.util.spec_from_file_location(
        "qemu_compiler_build" if name == "build" else name, FOLDER / f"{name}.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


patch = load("patch")
pins = load("pins")
qemu_build = load("build")
