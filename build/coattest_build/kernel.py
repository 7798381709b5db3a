"""Compiles the kernel and init from locked source with the locked toolchain, in the sandbox.

The cache has the result under a digest of every input: the pins, the fragment, init's source and the scripts
below.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import coattest
from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import read_bounded
from coattest.progress import Reporter
from coattest_build import sandbox
from coattest_build.image import CONTAINER, MINIMAL, ImageSpec
from coattest_build.inputs import unpack
from coattest_build.inputs.cache import Cache, exclusive, sha256_file
from coattest_build.inputs.cache import scratch as scratch_directory
from coattest_build.inputs.lock import Lock
from coattest_build.sandbox.isolate import Bind

OUTPUTS = ("bzImage", "init", "config")
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
"""All of the compiler's environment. Neither the time nor the builder gets into the kernel
(``Documentation/kbuild/reproducible-builds.rst``)."""
UNUSED = ("arm", "arm64", "mips", "powerpc", "riscv", "s390", "sparc")
EXCLUDED = (
    *(f"*/arch/{name}/{part}" for name in UNUSED for part in ("boot", "include", "kernel", "mach-*", "mm")),
    "*/drivers/gpu/drm/amd/include",
    "*/tools/testing",
)
"""Half of the tree, which x86 without PCI never reads: sources of other architectures, headers of drivers.

Kconfig and crypto folders stay, because Kconfig files name each other across architectures.
"""
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
MAX_DIGESTS = 4096
"""Bytes of the file with the outputs' digests."""
MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes of each output."""
LIMITS = sandbox.Limits(
    seconds=4 * 3600, memory=32 << 30, processes=4096, disk=16 << 30, output=64 << 20, file=2 << 30
)
"""Of configuring and of compiling: on two cores ten minutes, 1 GB of memory and 3 GB of disk."""
TOLD_SECONDS = 30.0
"""Between two notes on how far the compiler is."""
LOG_LINES = 3
"""Lines of the log in an error."""
COMPILE_FAILED = "compile-failed"
"""The code of every failure to get the outputs."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel, an init and the resolved configuration.

    ``digest`` is that of the inputs, ``sha256`` the kernel's own. ``fresh`` says that this run compiled them:
    a cache does not show who filled it.
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
    """Check that every option of the fragment has its value in the resolved configuration.

    Raises UsageError (``kernel-option``) with all options that do not.
    """
    lost = [
        f"CONFIG_{name}={value} became {found}"
        for name, value, found in _unlike(parse_config(fragment), resolved)
    ]
    if lost:
        raise _wrong_options("; ".join(lost), "the option's dependencies are not met")


def _unlike(wanted: Mapping[str, str], resolved: str) -> list[tuple[str, str, str]]:
    """The options that do not have their value in a resolved configuration: name, wanted and found value."""
    options = parse_config(resolved)
    found = ((name, value, options.get(name, "n")) for name, value in wanted.items())
    return [each for each in found if each[1] != each[2]]


def _wrong_options(what: str, hint: str) -> UsageError:
    return UsageError(what, where="kernel configuration", hint=hint, code="kernel-option")


_NEVER = frozenset({"MODULES", "NAMESPACES", "BPF_SYSCALL", "IO_URING"})
_MORE = frozenset({"INET", "UNIX98_PTYS", "SYSVIPC", "AIO"})
PROFILE_OPTIONS: Mapping[str, Mapping[str, str]] = {
    MINIMAL: dict.fromkeys(sorted(_NEVER | _MORE), "n"),
    CONTAINER: dict.fromkeys(sorted(_NEVER), "n") | dict.fromkeys(sorted(_MORE | {"POSIX_MQUEUE"}), "y"),
}
"""What a kernel must have and must not, so that the profile that its claim names is true (ADR 200)."""


def check_profile(profile: str, resolved: str) -> None:
    """Check the resolved configuration against its profile. Raises UsageError (``kernel-option``)."""
    wrong = [f"CONFIG_{name} is {found}" for name, _, found in _unlike(PROFILE_OPTIONS[profile], resolved)]
    if wrong:
        raise _wrong_options(
            f"not a kernel of the profile {profile}: {', '.join(wrong)}",
            "change the fragment, or [kernel] profile in build/image.toml with fragment and init",
        )


def kernel_version(spec: ImageSpec, lock: Lock) -> str:
    """The version of the locked kernel source package, for the image's metadata."""
    return next(p.version for p in lock.used_for("kernel") if p.name == spec.kernel.package)


@dataclass(frozen=True, slots=True)
class KernelInputs:
    """What kernel and init are compiled from: pins, the fragment, and init's source."""

    spec: ImageSpec
    lock: Lock
    fragment: bytes
    init: bytes

    @classmethod
    def of_tree(cls, spec: ImageSpec, lock: Lock, source: Path) -> KernelInputs:
        """With the files of a source tree."""
        files = (spec.kernel.config, spec.kernel.init)
        return cls(spec, lock, *((source / name).read_bytes() for name in files))

    def digest(self) -> str:
        """The SHA-256 (hex) of everything that decides the bytes of kernel and init.

        For each use its packages, in the order in which they are unpacked: the same package as source, as a
        part of the toolchain, or as both, gives other roots. The tool's version is in it too, because its
        code unpacks the toolchain.
        """
        inputs = {
            "tool": coattest.__version__,
            "architecture": self.lock.architecture,
            "packages": {
                use: [[p.name, p.sha256] for p in self.lock.used_for(use)] for use in ("kernel", "toolchain")
            },
            "tarball": self.spec.kernel.tarball,
            "links": dict(self.spec.toolchain_links),
            "fragment": hashlib.sha256(self.fragment).hexdigest(),
            "init": hashlib.sha256(self.init).hexdigest(),
            "environment": ENVIRONMENT,
            "scripts": [CONFIGURE, COMPILE],
        }
        if (
            self.spec.kernel.profile != MINIMAL
        ):  # so that kernels of before there were profiles are still found
            inputs["profile"] = self.spec.kernel.profile
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def check(self, outputs: Path) -> None:
        """Check the resolved configuration among a compilation's outputs, which may be hostile.

        Raises as ``check_config``, ``check_profile`` and ``read_output``.
        """
        resolved = read_output(outputs / "config").decode()
        check_config(self.fragment.decode(), resolved)
        check_profile(self.spec.kernel.profile, resolved)


def obtain(
    inputs: KernelInputs,
    cache: Cache,
    packages: Mapping[str, Path],
    *,
    jobs: int,
    fresh: bool,
    reporter: Reporter,
) -> Compiled:
    """The kernel and init for the inputs, from the cache unless ``fresh``, else compiled now.

    ``packages`` maps names to checked .deb files. Raises EnvironmentFailure (``compile-failed``,
    ``no-sandbox``), and UsageError (``kernel-option``).
    """
    digest = inputs.digest()
    folder = cache.folder / "kernel" / digest
    found = None if fresh else cached(inputs, cache)
    if found:
        return found
    with exclusive(folder.with_name(f"{digest}.lock")) as free:
        if not free and not fresh:  # another process compiled the same meanwhile
            found = _load(folder, digest)
            if found:
                return found
        return _compile(inputs, folder, packages, jobs=jobs, reporter=reporter)


def cached(inputs: KernelInputs, cache: Cache) -> Compiled | None:
    """The kernel and init for the inputs, where the cache has them. Raises UsageError (``kernel-option``)."""
    digest = inputs.digest()
    found = _load(cache.folder / "kernel" / digest, digest)
    if found:
        check_profile(inputs.spec.kernel.profile, found.config.read_text())
    return found


def _load(folder: Path, digest: str, *, fresh: bool = False) -> Compiled | None:
    """The outputs in the cache, checked against the digests that were written when they were compiled."""
    try:
        digests = json.loads(read_bounded(folder / "outputs.json", MAX_DIGESTS))
        for name in OUTPUTS:
            if sha256_file(folder / name) != digests[name]:
                return None
    except (UsageError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    bzimage, init, config = (folder / name for name in OUTPUTS)
    return Compiled(bzimage, init, config, digest, digests["bzImage"], fresh)


def _compile(
    inputs: KernelInputs, folder: Path, packages: Mapping[str, Path], *, jobs: int, reporter: Reporter
) -> Compiled:
    with scratch_directory(folder.parent, "compile-") as scratch:
        with reporter.step("Unpacking the locked toolchain and the kernel source"):
            toolchain = unpack_toolchain(inputs.spec, inputs.lock, packages, scratch / "root")
            tarball = unpack_source(inputs.spec, inputs.lock, packages, scratch / "kernel")
        (scratch / "fragment").write_bytes(inputs.fragment)
        (scratch / "init.c").write_bytes(inputs.init)
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
        inputs.check(out)
        with reporter.step(f"Compiling the kernel ({jobs} jobs, some minutes; log in {log})"):
            heard = CompileProgress(reporter)
            _shell(toolchain.root, COMPILE, {"JOBS": str(jobs)}, binds, log, heard=heard)
        compiled = _store(out, folder, folder.name, fresh=True)
        log.unlink(missing_ok=True)
        return compiled


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

    Raises FoundFalse for a hostile package, and UsageError when the package does not have the archive.
    """
    tree = unpack.Tree(root)
    for p in lock.used_for("kernel"):
        tree.unpack_deb(packages[p.name], p.label, lambda path: path == spec.kernel.tarball)
    if tree.kinds.get(spec.kernel.tarball) != "file":
        raise UsageError(f"{spec.kernel.package} has no {spec.kernel.tarball}", where="build/image.toml")
    return root / spec.kernel.tarball


def adopt(outputs: Path, folder: Path, inputs: KernelInputs, *, fresh: bool) -> Compiled:
    """The outputs of a container's compile stage, read as hostile and copied to ``folder``.

    Raises EnvironmentFailure (``compile-failed``) unless they are files of a plausible size, and UsageError
    (``kernel-option``) when an option of the fragment was lost, or the profile's are not there.
    """
    inputs.check(outputs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return _store(outputs, folder, inputs.digest(), fresh=fresh)


class CompileProgress:
    """Takes what make says, and notes twice a minute how many files it has compiled."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._reporter, self._clock, self._files = reporter, clock, 0
        self._started = self._told = clock()

    def __call__(self, data: bytes) -> None:
        """Take some more."""
        self._files += data.count(b"  CC  ")  # of Kbuild: two spaces, a short name, padding
        now = self._clock()
        if now - self._told >= TOLD_SECONDS:
            self._told = now
            minutes, seconds = divmod(round(now - self._started), 60)
            self._reporter.note(f"  {self._files} files of the kernel compiled in {minutes}:{seconds:02}")


def _shell(
    root: Path,
    script: str,
    more: dict[str, str],
    binds: list[Bind],
    log: Path,
    *,
    heard: Callable[[bytes], None] = lambda _: None,
) -> None:
    code, said = sandbox.run_limited(
        root,
        ["/bin/sh", "-c", script],
        limits=LIMITS,
        env={**ENVIRONMENT, **more},
        log=log,
        heard=heard,
        binds=binds,
        cwd="/work",
        proc=False,  # some hosts forbid one, and the compilation must be the same everywhere
    )
    if code:
        lines = said.splitlines()
        errors = [line for line in lines if "error" in line.lower() or "No space" in line] or lines
        raise EnvironmentFailure(
            f"exit code {code}: {' / '.join(errors[-LOG_LINES:])}",
            where="kernel",
            hint=f"the log is {log}",
            code=COMPILE_FAILED,
        )


def read_output(path: Path) -> bytes:
    """The bytes of a file that the compilation wrote.

    Raises EnvironmentFailure (``compile-failed``) unless it is a regular file of a plausible size.
    """
    return sandbox.read_result(path, most=MAX_OUTPUT, code=COMPILE_FAILED)


def _store(out: Path, folder: Path, digest: str, *, fresh: bool) -> Compiled:
    """Move the outputs to their place in the cache, with one rename; ``digest`` is that of the inputs.

    When the same bytes are there already they stay: another process may be reading them.
    """
    digests = {}
    with tempfile.TemporaryDirectory(prefix="store-", dir=folder.parent) as name:
        made = Path(name) / "kernel"
        made.mkdir()
        for output in OUTPUTS:
            content = read_output(out / output)
            (made / output).write_bytes(content)
            digests[output] = hashlib.sha256(content).hexdigest()
        text = json.dumps(digests, indent=2, sort_keys=True) + "\n"
        (made / "outputs.json").write_text(text)
        if not _load(folder, digest) or read_bounded(folder / "outputs.json", MAX_DIGESTS) != text.encode():
            if folder.exists():
                shutil.rmtree(folder)
            made.replace(folder)
    compiled = _load(folder, digest, fresh=fresh)
    if compiled is None:
        raise EnvironmentFailure("the result vanished from the cache", where=str(folder), code=COMPILE_FAILED)
    return compiled
