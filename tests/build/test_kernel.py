"""The kernel's configuration, its cache, and what is compiled into it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from coattest.errors import UsageError
from coattest.progress import Quiet
from coattest_build import image, kernel, starts
from coattest_build import source as sources
from coattest_build.inputs import lock
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.fetch import fetch_packages
from coattest_build.kernel import Compiled, KernelInputs
from coattest_local.host.lacking import CALLS, FAMILIES, config_of
from support.raises import raises_code

REPOSITORY = Path(__file__).parents[2]
FRAGMENT = (REPOSITORY / "build/kernel/x86_64.config").read_text()


@pytest.fixture
def compiled(built_images: object) -> Compiled:
    """The kernel of the images, from the cache that building them filled."""
    from coattest_build.inputs.cache import cache_folder

    spec, (locked, _) = image.load_spec(REPOSITORY), lock.load_lock(REPOSITORY)
    cache = Cache(cache_folder())
    debs = fetch_packages(locked.packages, cache, lambda: (), Quiet())
    return kernel.obtain(
        KernelInputs.of_tree(spec, locked, REPOSITORY), cache, debs, jobs=1, fresh=False, reporter=Quiet()
    )


@pytest.mark.image
def test_nothing_in_the_configuration_makes_builds_differ(compiled: Compiled) -> None:
    """Randomised layouts, embedded configurations, versions from git, keys, debug paths and salts are off."""
    options = kernel.parse_config(compiled.config.read_text())
    for name in (
        "RANDSTRUCT",
        "RANDSTRUCT_FULL",
        "RANDSTRUCT_PERFORMANCE",
        "IKCONFIG",
        "IKHEADERS",
        "LOCALVERSION_AUTO",
        "MODULE_SIG",
        "MODULES",
        "DEBUG_INFO",
        "GCC_PLUGINS",
    ):
        assert options.get(name, "n") == "n", name
    assert options["BUILD_SALT"] == '""'
    assert options["LOCALVERSION"] == '""'


@pytest.mark.image
def test_the_configuration_suits_the_machine(compiled: Compiled) -> None:
    """What Nitro and QEMU's machine need is in, and what AWS's kernels have; PCI, ACPI and TCP/IP are not."""
    options = kernel.parse_config(compiled.config.read_text())
    for name in ("NSM", "VIRTIO_VSOCKETS", "VIRTIO_MMIO_CMDLINE_DEVICES", "HW_RANDOM", "PTP_1588_CLOCK_KVM"):
        assert options[name] == "y", name
    for name in ("MTRR", "X86_PAT", "PARAVIRT_SPINLOCKS", "SERIAL_EARLYCON"):
        assert options[name] == "y", name
    for name in ("PCI", "ACPI", "INET", "BLOCK", "USB_SUPPORT", "KEXEC", "DEVMEM", "BPF_SYSCALL"):
        assert options.get(name, "n") == "n", name


@pytest.mark.image
def test_the_software_host_knows_what_the_kernel_lacks(compiled: Compiled) -> None:
    """What it takes from the fragment is so in the resolved configuration: no default says otherwise."""
    resolved, known = kernel.parse_config(compiled.config.read_text()), config_of("minimal")
    names = (*FAMILIES, *CALLS)
    assert {name: known.get(name, "n") for name in names} == {name: resolved.get(name, "n") for name in names}


@pytest.mark.image
def test_every_option_of_the_fragment_is_in_the_kernel(compiled: Compiled) -> None:
    """No option was silently dropped for want of another."""
    kernel.check_config(FRAGMENT, compiled.config.read_text())


@pytest.mark.image
def test_the_compiled_files_carry_nothing_of_the_builder(compiled: Compiled) -> None:
    """Neither init nor the kernel's version string names a host, user, path or time."""
    init = compiled.init.read_bytes()
    assert init.startswith(b"\x7fELF")
    assert len(init) < 32 * 1024
    for path in (compiled.init, compiled.bzimage):
        content = path.read_bytes()
        for trace in (str(Path.home()).encode() + b"/", b"/work/src", b"compile-"):
            assert trace not in content
    # Documentation/arch/x86/boot.rst: the version text is at 0x200 plus the 16-bit value at 0x20e.
    head = compiled.bzimage.read_bytes()[:65536]
    start = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    version = head[start : head.index(b"\0", start)].decode()
    assert "(coattest@coattest) #1 " in version
    assert version.endswith(" @0")


@pytest.mark.parametrize(("before", "kept"), [("same", True), ("other", False), ("damaged", False)])
def test_the_same_kernel_in_the_cache_is_left_alone(tmp_path: Path, before: str, kept: bool) -> None:
    """A reader of the entry keeps it when a fresh compile gives the same bytes; anything else is replaced."""
    out, folder = tmp_path / "out", tmp_path / "kernel/digest"
    out.mkdir()
    folder.parent.mkdir()
    for name in kernel.OUTPUTS:
        (out / name).write_bytes(b"old " + name.encode() if before == "other" else name.encode())
    kernel._store(out, folder, folder.name, fresh=False)
    identity = folder.stat().st_ino
    if before == "damaged":
        (folder / kernel.OUTPUTS[0]).write_bytes(b"junk")
    for name in kernel.OUTPUTS:
        (out / name).write_bytes(name.encode())
    with (folder / "outputs.json").open() as held:
        kernel._store(out, folder, folder.name, fresh=False)
        assert (folder.stat().st_ino == identity) is kept
        assert held.read()
    for name in kernel.OUTPUTS:
        assert (folder / name).read_bytes() == name.encode()


def test_how_far_the_compiler_is_is_told_twice_a_minute() -> None:
    """In files, whatever pieces make's output comes in; where there is no terminal, too."""
    notes: list[str] = []

    class Notes(Quiet):
        def note(self, text: str) -> None:
            notes.append(text)

    seconds = [0.0]
    progress = kernel.CompileProgress(Notes(), lambda: seconds[0])
    for second in range(1, 100):
        seconds[0] = float(second)
        progress(b"  CC      init/main.o\n  AR      init/built-in.a\n  HOSTCC  scripts/x\n")
    assert notes == [f"  {n} files of the kernel compiled in {n // 60}:{n % 60:02}" for n in (30, 60, 90)]


def test_a_lost_option_is_named() -> None:
    """An option whose dependencies are missing, or that became something else, fails with its name."""
    resolved = FRAGMENT.replace("CONFIG_NSM=y", "# CONFIG_NSM is not set").replace(
        "CONFIG_NR_CPUS=64", "CONFIG_NR_CPUS=8"
    )
    kernel.check_config(FRAGMENT, FRAGMENT)
    with raises_code(UsageError, "kernel-option") as caught:
        kernel.check_config(FRAGMENT, resolved)
    assert "CONFIG_NSM=y became n" in str(caught.value)
    assert "CONFIG_NR_CPUS=64 became 8" in str(caught.value)
    with raises_code(UsageError, "kernel-option", match="CONFIG_INET=n became y"):
        kernel.check_config(FRAGMENT, FRAGMENT.replace("# CONFIG_INET is not set", "CONFIG_INET=y"))


@pytest.mark.parametrize(
    ("profile", "before", "after"),
    [
        ("minimal", "# CONFIG_INET is not set", "CONFIG_INET=y"),
        ("minimal", "# CONFIG_MODULES is not set", "CONFIG_MODULES=y"),
        ("container", "CONFIG_INET=y", "# CONFIG_INET is not set"),
        ("container", "CONFIG_POSIX_MQUEUE=y", ""),
        ("container", "# CONFIG_BPF_SYSCALL is not set", "CONFIG_BPF_SYSCALL=y"),
    ],
)
def test_the_profile_that_a_claim_names_is_true(profile: str, before: str, after: str) -> None:
    """A fragment of one's own may change much, and not what the name says."""
    fragment = starts.kernel_parts(profile)[starts.FRAGMENT]
    options = kernel.parse_config(fragment)
    config = "\n".join(
        f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"
        for name, value in options.items()
    )
    kernel.check_profile(profile, config)
    assert before in config
    with raises_code(UsageError, "kernel-option", match=f"not a kernel of the profile {profile}: CONFIG_"):
        kernel.check_profile(profile, config.replace(before, after))


def test_a_kernel_of_the_cache_is_held_against_its_profile_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be from before there were profiles."""
    spec, (locked, _) = image.load_spec(REPOSITORY), lock.load_lock(REPOSITORY)
    (tmp_path / "config").write_text("CONFIG_INET=y\n")
    there = Compiled(tmp_path / "bzImage", tmp_path / "init", tmp_path / "config", "a", "b", False)
    monkeypatch.setattr(kernel, "_load", lambda *_, **__: there)
    with raises_code(UsageError, "kernel-option", match="CONFIG_INET is y"):
        kernel.obtain(
            KernelInputs.of_tree(spec, locked, REPOSITORY),
            Cache(tmp_path),
            {},
            jobs=1,
            fresh=False,
            reporter=Quiet(),
        )


def test_every_input_of_the_kernel_is_in_its_digest() -> None:
    """Another source, toolchain, fragment, init or link gives another digest; a runtime package does not.

    So does another use of the same package, and another order of unpacking.
    """

    def digest(spec: image.ImageSpec, locked: lock.Lock, fragment: bytes, init: bytes) -> str:
        return KernelInputs(spec, locked, fragment, init).digest()

    spec, (locked, _) = image.load_spec(REPOSITORY), lock.load_lock(REPOSITORY)
    digests = [digest(spec, locked, b"fragment", b"init")]

    def moved(use: str) -> lock.Lock:
        packages = list(locked.packages)
        index = next(i for i, p in enumerate(packages) if p.use == (use,))
        packages[index] = dataclasses.replace(packages[index], sha256="0" * 64)
        return dataclasses.replace(locked, packages=tuple(packages))

    def used(index: int, *use: str) -> lock.Lock:
        packages = list(locked.packages)
        packages[index] = dataclasses.replace(packages[index], use=use)
        return dataclasses.replace(locked, packages=tuple(packages))

    source = next(i for i, p in enumerate(locked.packages) if p.use == ("kernel",))
    tool = next(i for i, p in enumerate(locked.packages) if p.use == ("toolchain",))
    backwards = dataclasses.replace(locked, packages=locked.packages[::-1])
    assert digest(spec, moved("runtime"), b"fragment", b"init") == digests[0]
    assert digest(spec, used(tool, "runtime", "toolchain"), b"fragment", b"init") == digests[0]
    digests += [
        digest(spec, moved("kernel"), b"fragment", b"init"),
        digest(spec, moved("toolchain"), b"fragment", b"init"),
        *(
            digest(spec, changed, b"fragment", b"init")
            for changed in (
                used(source, "toolchain"),
                used(source, "kernel", "toolchain"),
                used(tool, "kernel"),
                used(tool, "kernel", "toolchain"),
                used(tool, "runtime"),
                dataclasses.replace(locked, architecture="aarch64"),
                backwards,
            )
        ),
        digest(spec, locked, b"Fragment", b"init"),
        digest(spec, locked, b"fragment", b"Init"),
        digest(dataclasses.replace(spec, toolchain_links=()), locked, b"fragment", b"init"),
        digest(
            dataclasses.replace(spec, kernel=dataclasses.replace(spec.kernel, profile="container")),
            locked,
            b"fragment",
            b"init",
        ),
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.image
def test_a_damaged_kernel_in_the_cache_is_not_used(compiled: Compiled, tmp_path: Path) -> None:
    """Kernel, init and configuration are hashed at every use."""
    folder = tmp_path / "kernel" / compiled.digest
    folder.mkdir(parents=True)
    for path in compiled.bzimage.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert kernel._load(folder, compiled.digest)
    damaged = bytearray((folder / "init").read_bytes())
    damaged[-1] ^= 1
    (folder / "init").write_bytes(damaged)
    assert kernel._load(folder, compiled.digest) is None


def test_the_source_in_git_is_what_the_claim_covers() -> None:
    """The kernel's fragment and init are part of the tree digest."""
    spec = image.load_spec(REPOSITORY)
    for path in (spec.kernel.config, spec.kernel.init):
        assert any(path.startswith(f"{root}/") for root in sources.ROOTS)
