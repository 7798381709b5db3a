"""The container route: the builder's steps as stages of a Dockerfile.

A plain RUN may not make user namespaces, so the sandbox cannot run there. Instead the stage that compiles has
the locked toolchain and nothing else: no path of the base or of the host. `CONFINE`, which runs on the locked
perl, gives up every privilege and every socket but AF_UNIX before each command.

`prepare_stage` writes that stage's root; `assemble_stage` takes the stage's outputs and assembles the images.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure
from coattest.files import Folder
from coattest.progress import Quiet, Reporter
from coattest_build import builder, kernel, rootfs, sandbox
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.image import Bytecode, ImageSpec
from coattest_build.inputs.cache import Cache, cache_folder
from coattest_build.report import BuildReport

DRIVER = "coattest/stage.pl"
IMAGE = "coattest/image"
OUTPUT = "coattest/out"
EXPECTED = {
    **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Uid": "65534 65534 65534 65534",
    "Inet": "refused",
    "Vsock": "refused",
}
"""What the compile stage must report of itself: no capability in any set, no way to more, a filter."""

# System call numbers and constants of x86_64 Linux: perl-base has no module that names them. The filter is
# the sandbox's, but refuses every family except AF_UNIX, as there may be no network namespace.
CONFINE = r"""use strict;
use warnings;

my ($nobody, @filter) = (65534,
    [0x20, 0, 0, 4], [0x15, 1, 0, 0xC000003E], [0x06, 0, 0, 0x80000000],   # another architecture: killed
    [0x20, 0, 0, 0], [0x35, 0, 1, 0x40000000], [0x06, 0, 0, 0x00050026],   # x32: ENOSYS
    [0x15, 0, 1, 425], [0x06, 0, 0, 0x00050026],                           # io_uring_setup: ENOSYS
    [0x15, 0, 3, 41], [0x20, 0, 0, 16], [0x15, 1, 0, 1], [0x06, 0, 0, 0x00050001], # socket: EPERM
    [0x06, 0, 0, 0x7FFF0000]);

# setrlimit(2): bytes of one file, of a core, of memory; processes of nobody. And the seconds of a step.
my %limits = (1 => 2 << 30, 4 => 0, 9 => 32 << 30, 6 => 4096);
my $seconds = 4 * 3600;

sub check { my ($what, $result) = @_; die "$what: $!\n" if $result == -1; }

sub confine {
    my ($root, $folder) = @_;
    chroot($root) or die "chroot: $!\n";
    chdir($folder) or die "$folder: $!\n";
    umask(022);
    for my $capability (0 .. 63) {
        last if syscall(157, 24, $capability, 0, 0, 0) == -1 && $! == 22;    # PR_CAPBSET_DROP
        check("capability bounding set", syscall(157, 23, $capability, 0, 0, 0) == 0 ? 0 : -1);
    }
    check("setgroups", syscall(116, 0, 0));
    check("setgid", syscall(106, $nobody));
    check("setuid", syscall(105, $nobody));
    my ($header, $none) = (pack("LL", 0x20080522, 0), "\0" x 24);
    check("capset", syscall(126, $header, $none));
    check("no_new_privs", syscall(157, 38, 1, 0, 0, 0));
    for my $number (1, 4, 6, 9) {
        my $found = pack("QQ", 0, 0);
        check("limit $number", syscall(97, $number, $found));                # getrlimit
        my ($most, $hard) = ($limits{$number}, unpack("x8 Q", $found));
        $most = $hard if $hard < $most;
        check("limit $number", syscall(160, $number, pack("QQ", $most, $most)));
    }
    my $program = join("", map { pack("SCCL", @$_) } @filter);
    my $pointer = pack("S x6 P", scalar(@filter), $program);
    check("seccomp", syscall(157, 22, 2, $pointer, 0, 0));
}

sub step {
    my ($root, $folder, $environment, @command) = @_;
    my $child = fork() // die "fork: $!\n";
    if (!$child) {
        confine($root, $folder);
        if (ref $command[0]) { $command[0]->(); exit 0; }
        %ENV = %$environment;
        exec { $command[0] } @command or die "$command[0]: $!\n";
    }
    local $SIG{ALRM} = sub { print STDERR "coattest: out of time\n"; kill("KILL", $child); };
    alarm($seconds);
    1 while waitpid($child, 0) == -1 && $! == 4;
    my $status = $?;
    alarm(0);
    settle();
    if ($status) { print STDERR "coattest: exit status $status of $command[0]\n"; exit 1; }
}

# A step's orphans become ours (PR_SET_CHILD_SUBREAPER) and end with it: none is there when files are read.
sub settle {
    while (1) {
        opendir(my $all, "/proc") or die "/proc: $!\n";
        my @left = grep { /^\d+$/ && parent($_) == $$ } readdir($all);
        closedir($all);
        return unless @left;
        kill("KILL", @left);
        waitpid($_, 0) for @left;
    }
}

sub parent {
    open(my $file, "<", "/proc/$_[0]/stat") or return 0;
    my $line = <$file> // "";
    return $line =~ /\) \S+ (\d+) [^)]*$/ ? $1 : 0;
}

check("subreaper", syscall(157, 36, 1, 0, 0, 0));

sub observe {
    open(my $out, ">", "/coattest/out/isolation") or die "isolation: $!\n";
    open(my $status, "<", "/proc/self/status") or die "/proc/self/status: $!\n";
    while (<$status>) { print $out $_ if /^(Cap|NoNewPrivs:|Seccomp:|Uid:)/; }
    print $out "Inet:\t", (socket(my $inet, 2, 1, 0) ? "possible" : "refused"), "\n";
    print $out "Vsock:\t", (socket(my $vsock, 40, 1, 0) ? "possible" : "refused"), "\n";
    close($out) or die "isolation: $!\n";
}

sub own { system({ "/bin/chown" } "chown", "-R", "$nobody:$nobody", @_) == 0 or die "chown failed\n"; }

"""


def quoted(text: str) -> str:
    """``text`` as a string literal of perl."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _call(root: str, folder: str, environment: dict[str, str], command: Sequence[str]) -> str:
    pairs = ", ".join(f"{quoted(name)} => {quoted(value)}" for name, value in environment.items())
    return f"step({quoted(root)}, {quoted(folder)}, {{{pairs}}}, {', '.join(map(quoted, command))});\n"


def driver(spec: ImageSpec, jobs: int | None) -> str:
    """The perl program that the compile stage runs: the sandbox's commands in the sandbox's environment."""
    count = {"JOBS": str(jobs)} if jobs else {}
    shell = ["/bin/sh", "-c"]
    number = 'export JOBS="${JOBS:-$(nproc)}"\n'
    modules = rootfs.compile_commands(spec.bytecode) if spec.bytecode else ()
    folders = [name for group, _ in modules for name in group]
    writable = ", ".join(
        quoted(path)
        for path in ("/work", kernel.ENVIRONMENT["HOME"], f"/{OUTPUT}", *(f"/{IMAGE}/{f}" for f in folders))
    )
    lines = [
        CONFINE,
        f"own({writable});\n",
        "step('/', '/', {}, \\&observe);\n",
        _call("/", "/work", kernel.ENVIRONMENT, [*shell, kernel.CONFIGURE]),
        _call("/", "/work", {**kernel.ENVIRONMENT, **count}, [*shell, number + kernel.COMPILE]),
        _call("/", "/", kernel.ENVIRONMENT, [*shell, f"cp /work/out/* /{OUTPUT}/ && rm -rf /work/src"]),
        *(_call(f"/{IMAGE}", "/", rootfs.COMPILE_ENVIRONMENT, command) for _, command in modules),
        # O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW: what a step put there is not written through.
        f"sysopen(my $run, '/{OUTPUT}/run', 0x200C1) or die \"run: $!\\n\";\n",
        "print $run ($ENV{COATTEST_RUN} // '');\n",
        "close($run) or die $!;\n",
    ]
    return "".join(lines)


def prepare_stage(
    source: Path,
    stage: Path,
    *,
    cache: Path | None = None,
    mirror: str | None = None,
    jobs: int | None = None,
    container: ImagePlace | None = None,
    progress: Reporter | None = None,
) -> None:
    """Write the root of the compile stage to the new directory ``stage``.

    ``container`` is a file of the container image that the lock pins, which goes into the cache. Raises
    CoattestError.
    """
    reporter = progress or Quiet()
    with tempfile.TemporaryDirectory(prefix="coattest-prepare-") as name:
        scratch = Path(name)
        store = Cache(cache_folder(cache))
        inputs = builder.gather(source, scratch, store, profiles=None, mirror=mirror, reporter=reporter)
        spec, folder = inputs.spec, inputs.snapshot.folder
        with builder.open_payload(inputs, store, container, reporter):
            pass
        with reporter.step("Unpacking the locked toolchain and the kernel source"):
            toolchain = kernel.unpack_toolchain(spec, inputs.lock, inputs.debs, stage)
            tarball = kernel.unpack_source(spec, inputs.lock, inputs.debs, scratch / "kernel")
            for directory in ("dev", "proc", "sys", "tmp", "work", "input", OUTPUT):
                toolchain.make_directory(directory)
            shutil.move(tarball, stage / "input/linux.tar.xz")
        toolchain.add_file("input/fragment", [(folder / spec.kernel.config).read_bytes()])
        toolchain.add_file("input/init.c", [(folder / spec.kernel.init).read_bytes()])
        toolchain.add_file(DRIVER, [driver(spec, jobs).encode()])
        if spec.from_container:
            toolchain.make_directory(IMAGE)  # the Dockerfile copies it
        else:
            builder.compose_inputs(inputs, stage / IMAGE, reporter)
        if spec.bytecode:
            with Folder(stage / IMAGE) as tree:
                rootfs.check_folders(spec.bytecode, tree)


def assemble_stage(
    source: Path,
    stage: Path,
    compiled: Path,
    out: Path,
    *,
    cache: Path | None = None,
    mirror: str | None = None,
    run: str = "",
    progress: Reporter | None = None,
) -> BuildReport:
    """Assemble the images from the prepared ``stage`` and the results of the compile stage in ``compiled``.

    ``compiled`` has the compile stage's OUTPUT as ``out`` and its IMAGE as ``image``. The kernel counts as
    compiled by this run when the stage recorded the same non-empty ``run``; a cached layer did not. Raises
    CoattestError.
    """
    reporter = progress or Quiet()
    with tempfile.TemporaryDirectory(prefix="coattest-assemble-") as name:
        scratch = Path(name)
        store = Cache(cache_folder(cache))
        inputs = builder.gather(source, scratch, store, profiles=None, mirror=mirror, reporter=reporter)
        spec = inputs.spec
        isolation = read_isolation(compiled / "out/isolation")
        recorded = kernel.read_output(compiled / "out/run").decode(errors="replace")
        made = kernel.adopt(
            compiled / "out",
            scratch / "kernel",
            kernel.KernelInputs.of_tree(spec, inputs.lock, inputs.snapshot.folder),
            fresh=bool(run) and recorded == run,
        )
        root = stage / IMAGE
        if spec.bytecode:
            take_bytecode(spec.bytecode, compiled / "image", root)
        with builder.open_payload(inputs, store, None, reporter) as payload:
            return builder.assemble_images(
                inputs, made, payload or root, out, scratch, "container", isolation, reporter
            )


def read_isolation(path: Path) -> dict[str, Any]:
    """The isolation for the report, from what the compile stage recorded of itself.

    Raises EnvironmentFailure (``no-sandbox``) when it was not confined.
    """
    found = {
        name: " ".join(value.split())
        for name, _, value in (line.partition(":") for line in kernel.read_output(path).decode().splitlines())
    }
    weak = [
        f"{name} is {found.get(name, 'unknown')}"
        for name, value in EXPECTED.items()
        if found.get(name) != value
    ]
    if weak:
        raise EnvironmentFailure(
            f"the compile stage was not confined: {', '.join(weak)}",
            code="no-sandbox",
            where="container route",
        )
    by = "container runtime, own root of the locked toolchain, seccomp"
    return {**sandbox.ISOLATION, "by": by, "namespaces": [], "network": "sockets refused"}


def take_bytecode(bytecode: Bytecode, compiled: Path, root: Path) -> None:
    """Copy the modules that the compile stage made into ``root``, and drop the sources that they replace.

    Raises EnvironmentFailure (``bytecode-failed``) as `rootfs.take_modules`.
    """
    with Folder(root) as tree:
        rootfs.take_modules((*bytecode.directories, *bytecode.sourceless), compiled, tree)
        rootfs.drop_sources(bytecode, tree)
