"""The two ramdisks' file systems, composed from packages, wheels and source files."""

from __future__ import annotations

from coattest_build.rootfs.compose import (
    COMPILE_ENVIRONMENT,
    MOUNTED,
    BytecodeFailed,
    add_sources,
    application_entries,
    boot_entries,
    check_startable,
    compile_commands,
    compile_modules,
    compose,
    drop_sources,
    prune_pattern,
    root_entries,
)

__all__ = [
    "COMPILE_ENVIRONMENT",
    "MOUNTED",
    "BytecodeFailed",
    "add_sources",
    "application_entries",
    "boot_entries",
    "check_startable",
    "compile_commands",
    "compile_modules",
    "compose",
    "drop_sources",
    "prune_pattern",
    "root_entries",
]
