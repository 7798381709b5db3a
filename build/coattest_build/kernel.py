"""Compiles the kernel and init from locked source with the locked toolchain, in the sandbox.

The result is kept in the cache under a digest of everything that goes in: the pins, the fragment, init's
source and the scripts below.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import EnvironmentFailure, UsageError
from coattest.progress import Reporter
from coattest_build import sandbox
from coattest_build.image import ImageSpec
from coattest_build.inputs import unpack
from coattest_build.inputs.cache import Cache, exclusive, sha256_file
from coattest_build.inputs.cache import scratch as scratch_directory
from coattest_build.inputs.lock import Lock
from coattest_build.sandbox.isolate import Bind

OUTPUTS = ("bzImage", "init", "config")
# Fixed, so that neither the time nor the builder is in the kernel (kbuild/reproducible-builds.rst).
# Nothing of the host's environment reaches the compiler.
ENVIRONMENT = {
    "ARCH": "x86_64",
    "HOME": "/tmp",  # noqa: S108 - inside the sandbox
    "KBUILD_BUILD_HOST": "coattest",
    "KBUILD_BUILD_TIMESTAMP": "@0",
    "KBUILD_BUILD_USER": "coattest",
    "KBUILD_BUILD_VERSION": "1",
    "KCONFIG_NOTIMESTAMP": "1",
    "LC_ALL": "C",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "TMPDIR": "/work/tmp",
    "TZ": "UTC0",
}
# Half of the tree: sources of other architectures and headers of drivers, which x86 without PCI never reads.
# Kconfig and crypto folders stay: Kconfig files name each other across architectures.
UNUSED = ("arm", "arm64", "mips", "powerpc", "riscv", "s390", "sparc")
EXCLUDED = (
    *(f"*/arch/{name}/{part}" for name in UNUSED for part in ("boot", "include", "kernel", "mach-*", "mm")),
    "*/drivers/gpu/drm/amd/include",
    "*/tools/testing",
)
CONFIGURE = f"""set -eu
mkdir -p /work/tmp /work/src /work/out
xz -dc -T0 /input/linux.tar.xz | tar -x --no-same-owner -C /work/src --strip-components=1 {
    " ".join(f"--exclude='{pattern}'" for pattern in EXCLUDED)
}
cd /work/src
make tinyconfig
cat /input/fragment >> .config
make olddefconfig
cp .config /work/out/config
"""
COMPILE = """set -eu
cd /work/src
gcc -Os -Wall -Wextra -Werror -static -nostdlib -fno-stack-protector -fno-asynchronous-unwind-tables \
    -fno-ident -ffile-prefix-map=/input=. -include /work/src/tools/include/nolibc/nolibc.h \
    -Wl,--build-id=none -s -o /work/out/init /input/init.c -lgcc
make -j"$JOBS" bzImage
cp arch/x86/boot/bzImage /work/out/bzImage
"""
MAX_OUTPUT = 64 * 1024 * 1024
LOG_LINES = 3


class CompileFailed(EnvironmentFailure):
    """The compiler or make ended with an error."""

    default_code = "compile-failed"


class OptionLost(UsageError):
    """The resolved configuration does not have what the fragment asks for."""

    default_code = "kernel-option"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel, an init and the resolved configuration: where they are, and whether this run compiled them.

    ``digest`` is that of the inputs, ``sha256`` the kernel's own. A kernel from the cache is not ``fresh``:
    who filled a cache cannot be told from the cache.
    """

    bzimage: Path
    init: Path
    config: Path
    digest: str
    sha256: str
    fresh: bool


def parse_config(text: str) -> dict[str, str]:
    """Option names (without CONFIG_) to values; "n" for those that are not set."""
    options: dict[str, str] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"CONFIG_(\w+)=(.*)", line):
            options[match[1]] = match[2]
        elif match := re.fullmatch(r"# CONFIG_(\w+) is not set", line):
            options[match[1]] = "n"
    return options


def check_config(fragment: str, resolved: str) -> None:
    """Raise OptionLost unless every option of the fragment has its value in the resolved configuration."""
    found = parse_config(resolved)
    lost = [
        f"CONFIG_{name}={value} became {found.get(name, 'n')}"
        for name, value in parse_config(fragment).items()
        if found.get(name, "n") != value
    ]
    if lost:
        raise OptionLost(
            "; ".join(lost), where="kernel configuration", hint="the option's dependencies are not met"
        )


def kernel_version(spec: ImageSpec, lock: Lock) -> str:
    """The version of the locked kernel source package, as the image's metadata name it."""
    return next(p.version for p in lock.used_for("kernel") if p.name == spec.kernel.package)


def input_digest(spec: ImageSpec, lock: Lock, fragment: bytes, init: bytes) -> str:
    """The SHA-256 (hex) of everything that decides the bytes of kernel and init."""
    inputs = {
        "packages": {p.name: p.sha256 for p in (*lock.used_for("kernel"), *lock.used_for("toolchain"))},
        "tarball": spec.kernel.tarball,
        "links": dict(spec.toolchain_links),
        "fragment": hashlib.sha256(fragment).hexdigest(),
        "init": hashlib.sha256(init).hexdigest(),
        "environment": ENVIRONMENT,
        "scripts": [CONFIGURE, COMPILE],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def obtain(
    spec: ImageSpec,
    lock: Lock,
    source: Path,
    cache: Cache,
    packages: Mapping[str, Path],
    *,
    jobs: int,
    fresh: bool,
    reporter: Reporter,
) -> Compiled:
    """The kernel and init for the inputs, from the cache unless ``fresh``, else compiled now.

    ``packages`` maps names to checked .deb files. Raises CompileFailed, OptionLost, SandboxUnavailable.
    """
    fragment, init = (source / spec.kernel.config).read_bytes(), (source / spec.kernel.init).read_bytes()
    digest = input_digest(spec, lock, fragment, init)
    folder = cache.folder / "kernel" / digest
    found = None if fresh else _load(folder, digest)
    if found:
        return found
    with exclusive(folder.with_name(f"{digest}.lock")) as free:
        if not free and not fresh:  # somebody else compiled the same meanwhile
            found = _load(folder, digest)
            if found:
                return found
        _compile(spec, lock, (fragment, init), folder, packages, jobs=jobs, reporter=reporter)
    compiled = _load(folder, digest, fresh=True)
    if compiled is None:
        raise CompileFailed("the result vanished from the cache", where=str(folder))
    return compiled


def _load(folder: Path, digest: str, *, fresh: bool = False) -> Compiled | None:
    """What the cache has, its bytes checked against the digests noted when it was compiled."""
    try:
        noted = json.loads((folder / "outputs.json").read_text())
        for name in OUTPUTS:
            if sha256_file(folder / name) != noted[name]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    bzimage, init, config = (folder / name for name in OUTPUTS)
    return Compiled(bzimage, init, config, digest, noted["bzImage"], fresh)


def _compile(
    spec: ImageSpec,
    lock: Lock,
    texts: tuple[bytes, bytes],
    folder: Path,
    packages: Mapping[str, Path],
    *,
    jobs: int,
    reporter: Reporter,
) -> None:
    with scratch_directory(folder.parent, "compile-") as scratch:
        with reporter.step("Unpacking the locked toolchain and the kernel source"):
            toolchain = unpack_toolchain(spec, lock, packages, scratch / "root")
            tarball = unpack_source(spec, lock, packages, scratch / "kernel")
        (scratch / "fragment").write_bytes(texts[0])
        (scratch / "init.c").write_bytes(texts[1])
        (scratch / "work").mkdir()
        out = scratch / "out"
        out.mkdir()
        log = folder.with_name(f"{folder.name}.log")
        binds = [
            Bind(tarball, "/input/linux.tar.xz"),
            Bind(scratch / "fragment", "/input/fragment"),
            Bind(scratch / "init.c", "/input/init.c"),
            Bind(scratch / "work", "/work", writable=True),
            Bind(out, "/work/out", writable=True),  # a mount point, so that nothing inside can replace it
        ]
        with reporter.step("Configuring the kernel"):
            _shell(toolchain.root, CONFIGURE, {}, binds, log)
        check_config(texts[0].decode(), read_output(out / "config").decode())
        with reporter.step(f"Compiling the kernel ({jobs} jobs, some minutes; log in {log})"):
            _shell(toolchain.root, COMPILE, {"JOBS": str(jobs)}, binds, log)
        _keep(out, folder)
        log.unlink(missing_ok=True)


def unpack_toolchain(spec: ImageSpec, lock: Lock, packages: Mapping[str, Path], root: Path) -> unpack.Tree:
    """The locked toolchain in the fresh directory ``root``."""
    toolchain = unpack.Tree(root)
    unpack.unpack_all(toolchain, [(packages[p.name], p.label) for p in lock.used_for("toolchain")])
    for link, target in spec.toolchain_links:
        if link not in toolchain.kinds:
            toolchain.add_symlink(link, target)
    return toolchain


def unpack_source(spec: ImageSpec, lock: Lock, packages: Mapping[str, Path], root: Path) -> Path:
    """The path of the kernel's source archive, unpacked into the fresh directory ``root``.

    Raises HostileArchive, and UsageError when the package does not have it.
    """
    tree = unpack.Tree(root)
    for p in lock.used_for("kernel"):
        tree.unpack_deb(packages[p.name], p.label, keep=lambda at: at == spec.kernel.tarball)
    if tree.kinds.get(spec.kernel.tarball) != "file":
        raise UsageError(f"{spec.kernel.package} has no {spec.kernel.tarball}", where="build/image.toml")
    return root / spec.kernel.tarball


def adopt(outputs: Path, folder: Path, *, fragment: str, digest: str, fresh: bool) -> Compiled:
    """What a container's compile stage left in ``outputs``, read as hostile and copied to ``folder``.

    Raises CompileFailed for anything but plausible files, OptionLost when the fragment was not honoured.
    """
    check_config(fragment, read_output(outputs / "config").decode())
    folder.parent.mkdir(parents=True, exist_ok=True)
    _keep(outputs, folder)
    compiled = _load(folder, digest, fresh=fresh)
    if compiled is None:
        raise CompileFailed("the outputs changed while they were read", where=str(folder))
    return compiled


def _shell(root: Path, script: str, more: dict[str, str], binds: list[Bind], log: Path) -> None:
    with log.open("ab") as output:
        code = sandbox.run(
            root,
            ["/bin/sh", "-c", script],
            env={**ENVIRONMENT, **more},
            binds=binds,
            cwd="/work",
            proc=False,  # the same everywhere, whether or not the host allows one
            stdout=output,
            stderr=output,
        )
    if code:
        lines = log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if "error" in line.lower() or "No space" in line] or lines
        raise CompileFailed(
            f"exit code {code}: {' / '.join(telling[-LOG_LINES:])}", where="kernel", hint=f"the log is {log}"
        )


def read_output(path: Path) -> bytes:
    """The bytes of a file that the compilation wrote. Raises CompileFailed when it is not a plausible one."""
    return sandbox.read_left(path, most=MAX_OUTPUT, failure=CompileFailed)


def _keep(out: Path, folder: Path) -> None:
    """Move the outputs to their place in the cache, as one rename.

    The same bytes that are there already are left: another process may be reading them.
    """
    noted = {}
    with tempfile.TemporaryDirectory(prefix="keep-", dir=folder.parent) as name:
        kept = Path(name) / "kernel"
        kept.mkdir()
        for output in OUTPUTS:
            content = read_output(out / output)
            (kept / output).write_bytes(content)
            noted[output] = hashlib.sha256(content).hexdigest()
        text = json.dumps(noted, indent=2, sort_keys=True) + "\n"
        (kept / "outputs.json").write_text(text)
        if _load(folder, folder.name) and (folder / "outputs.json").read_text() == text:
            return
        if folder.exists():
            shutil.rmtree(folder)
        kept.replace(folder)
