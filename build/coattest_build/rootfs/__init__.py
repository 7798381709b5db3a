"""The two ramdisks' file systems, composed from packages, wheels and source files.

``compose`` fills a folder, ``compile_modules`` adds bytecode, and ``boot_entries`` and
``application_entries`` say what the ramdisks have.
"""

from __future__ import annotations

from coattest_build.rootfs.bytecode import (
    BYTECODE_FAILED,
    COMPILE_ENVIRONMENT,
    check_folders,
    compile_commands,
    compile_modules,
    drop_sources,
    take_modules,
)
from coattest_build.rootfs.compose import (
    add_sources,
    application_entries,
    boot_entries,
    check_startable,
    compose,
    prune_pattern,
    root_entries,
)
from coattest_build.rootfs.start import MOUNTED

__all__ = [
    "BYTECODE_FAILED",
    "COMPILE_ENVIRONMENT",
    "MOUNTED",
    "add_sources",
    "application_entries",
    "boot_entries",
    "check_folders",
    "check_startable",
    "compile_commands",
    "compile_modules",
    "compose",
    "drop_sources",
    "prune_pattern",
    "root_entries",
    "take_modules",
]
