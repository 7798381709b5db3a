"""Traps: files in a checkout that would run if anything were imported or started out of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MODULES = sorted(
    {
        *sys.stdlib_module_names,
        *("pip", "setuptools", "wheel", "pkg_resources", "sitecustomize", "usercustomize", "conftest"),
        *("click", "rich", "cryptography", "cbor2", "tomli", "tomli_w", "dulwich", "pysequoia", "boto3"),
        *("botocore", "moto", "werkzeug", "in_toto", "securesystemslib", "z3", "pkcs11", "asn1crypto"),
        *("coattest", "coattest_build", "coattest_verify", "coattest_parent", "coattest_local"),
        *("coattest_enclave", "_distutils_hack", "git", "certifi"),
    }
    - {"__future__"}  # read by the compiler alone
)
"""Everything that coattest, or a program that it starts, imports by name."""

PROGRAMS = (
    *("pip", "pip3", "python", "python3", "git", "tar", "xz", "gpg", "gpgv", "sh", "bash", "env", "cp"),
    *("gcc", "make", "ld", "strip", "bzip2", "gzip", "zstd", "install", "printf", "sha384sum", "cat"),
    *("buildah", "docker", "podman", "mmdebstrap", "unshare", "bwrap", "sudo", "fakeroot", "openssl"),
    *("nitro-cli", "nitro-local", "aws", "systemctl", "systemd-analyze", "cloud-init", "qemu-img"),
    *("qemu-system-x86_64", "vhost-device-vsock", "less", "more", "vi", "editor", "ssh", "curl", "wget"),
)
"""Every program that coattest, or a program that it starts, might look for by name."""

HOOKS = (
    "post-checkout",
    "pre-commit",
    "post-commit",
    "post-merge",
    "post-index-change",
    "reference-transaction",
)


@dataclass(frozen=True, slots=True)
class Traps:
    """What was planted in a folder; each trap that runs writes a line into ``canary``."""

    folder: Path
    canary: Path

    @property
    def sprung(self) -> list[str]:
        """What ran."""
        return self.canary.read_text().splitlines() if self.canary.exists() else []

    def environment(self) -> dict[str, str]:
        """Variables that lead every helper program here, as a user's shell in this folder may have them."""
        program = str(self.folder / "bin" / "editor")
        return {
            "PATH": f"{self.folder / 'bin'}::.:bin:{self.folder}:/usr/local/bin:/usr/bin:/bin",
            "GIT_EXTERNAL_DIFF": program,
            "GIT_SSH_COMMAND": program,
            "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"),
            "PAGER": program,
            "EDITOR": program,
            "VISUAL": program,
            "TAR_OPTIONS": f"--checkpoint=1 --checkpoint-action=exec={program}",
            "BASH_ENV": program,
            "ENV": program,
            "PIP_PYTHON": str(self.folder / "bin" / "python3"),
            "PIP_REQUIREMENT": str(self.folder / "requirements.txt"),
            "PIP_CONSTRAINT": str(self.folder / "requirements.txt"),
            "PIP_NO_BINARY": ":all:",
        }


def plant(folder: Path, canary: Path) -> Traps:
    """Put a trap for every module and program into ``folder``, beside what is there already."""
    for name in MODULES:
        _module(folder / f"{name}.py", canary)
    for name in ("pip", "coattest", "importlib", "encodings"):
        (folder / name).mkdir(exist_ok=True)
        for part in ("__init__.py", "__main__.py"):
            _module(folder / name / part, canary)
    (folder / "bin").mkdir(exist_ok=True)
    for name in PROGRAMS:
        for place in (folder / "bin" / name, folder / name):
            if not place.exists():
                _program(place, canary)
    (folder / "evil.pth").write_text(f"import os; open({str(canary)!r}, 'a').write('evil.pth\\n')\n")
    (folder / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/\npython = bin/python3\n")
    (folder / "setup.cfg").write_text("[global]\n")
    (folder / "requirements.txt").write_text(f"evil @ {(folder / 'evil').as_uri()}\n")
    (folder / "evil").mkdir(exist_ok=True)
    _module(folder / "evil" / "setup.py", canary)
    program = folder / "bin" / "editor"
    (folder / "gitconfig").write_text(f"[core]\n\tpager = {program}\n\tfsmonitor = {program}\n")
    (folder / ".gitattributes").write_text("* filter=evil diff=evil\n")
    repository = folder / ".git"
    if repository.is_dir():
        (repository / "hooks").mkdir(exist_ok=True)
        for name in HOOKS:
            _program(repository / "hooks" / name, canary)
        with (repository / "config").open("a") as config:
            config.write(f"[core]\n\tfsmonitor = {program}\n\tpager = {program}\n\teditor = {program}\n")
            config.write(f'[filter "evil"]\n\tsmudge = {program}\n\tclean = {program}\n\trequired\n')
            config.write(f'[diff "evil"]\n\tcommand = {program}\n\ttextconv = {program}\n')
    return Traps(folder, canary)


def springs(trap: Path) -> None:
    """Run a trap, as a test that traps work."""
    command = [sys.executable, "-S", str(trap)] if trap.suffix == ".py" else [str(trap)]
    subprocess.run(command, check=True, capture_output=True)


def _module(path: Path, canary: Path) -> None:
    path.write_text(f"with open({str(canary)!r}, 'a') as file:\n    file.write({path.name + chr(10)!r})\n")


def _program(path: Path, canary: Path) -> None:
    path.write_text(f'#!/bin/sh\necho "$0 $*" >> {canary}\n')
    path.chmod(0o755)
