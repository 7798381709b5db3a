"""What is varied, and running the builder under it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOBODY = 65534
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
FUTURE = 1_930_000_000  # 2031-02-27; later than every certificate and file here
COMPILE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Variation:
    """One way in which a build differs from the plain one. ``memory`` is in GiB, ``stack`` in KiB.

    ``place`` is where the source goes, ``mount`` what the build happens on, ``python`` the
    version that builds (None: the one that runs the tests), ``needs`` what must be there to do it.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    place: str = "source"
    git_above: bool = False
    umask: int = 0o022
    uid: int = 0
    host: str = ""
    cpus: tuple[int, ...] = ()
    memory: int = 0
    stack: int = 0
    mount: str = ""
    python: str = ""
    jobs: int | None = None
    fresh: bool = False
    needs: frozenset[str] = frozenset()

    def also(self, other: Variation) -> Variation:
        """This one and another: what the other leaves as it is stays."""
        plain = Variation()
        merged = replace(
            self,
            **{
                item.name: getattr(other, item.name)
                for item in fields(self)
                if getattr(other, item.name) != getattr(plain, item.name)
            },
        )
        return replace(
            merged,
            environment={**self.environment, **other.environment},
            needs=self.needs | other.needs,
        )


FAKE_CLOCK = Variation(
    environment={
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME": f"@{FUTURE}",
        "FAKETIME_FMT": "%s",
        "NO_FAKE_STAT": "1",
    },
    needs=frozenset({"faketime"}),
)
ROOT = frozenset({"root"})
CHEAP = {
    "path": Variation(place="elsewhere/a folder with spaces/süß"),
    "git-above": Variation(place="above/source", git_above=True),
    "user": Variation(uid=NOBODY, needs=ROOT),
    "umask": Variation(umask=0o077),
    "date": FAKE_CLOCK,
    "zone": Variation(environment={"TZ": "Pacific/Kiritimati"}),
    "locale": Variation(environment={"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"}),
    "host": Variation(host="another-host.example", needs=ROOT),
    "cpus": Variation(cpus=(0,), jobs=1),
    "memory": Variation(memory=1),
    "stack": Variation(stack=512),
    "hash-seed": Variation(environment={"PYTHONHASHSEED": "4711"}),
    "order": Variation(environment={"COATTEST_TEST_SHUFFLE": "4711"}),
    "zlib-ng": Variation(environment={"COATTEST_TEST_ZLIB_NG": "1"}),
    "tmpfs": Variation(mount="tmpfs", needs=ROOT),
    "overlay": Variation(mount="overlay", needs=ROOT),
    "disorderfs": Variation(mount="disorderfs", needs=frozenset({"root", "disorderfs"})),
    **{f"python-{version}": Variation(python=version) for version in ("3.10", "3.11", "3.12", "3.13")},
}
ALL = Variation()
for _name in (
    *("path", "git-above", "user", "umask", "date", "zone", "locale", "host", "cpus", "memory", "stack"),
    *("hash-seed", "order", "zlib-ng", "tmpfs"),
):
    ALL = ALL.also(CHEAP[_name])
# The kernel and init compiled anew, twice, each under as much as it can have.
COMPILES = {
    "compile-one-job": Variation(
        environment={"TZ": "America/St_Johns", "PYTHONHASHSEED": "1"},
        place="one job/source",
        umask=0o077,
        uid=NOBODY,
        host="one",
        cpus=(0,),
        jobs=1,
        fresh=True,
        needs=ROOT,
    ),
    "compile-three-jobs": Variation(
        environment={
            **FAKE_CLOCK.environment,
            "TZ": "Asia/Kathmandu",
            "LC_ALL": "tr_TR.UTF-8",
            "COATTEST_TEST_SHUFFLE": "9",
        },
        place="three/jobs",
        host="three-jobs",
        stack=16384,
        jobs=3,
        mount="tmpfs",
        fresh=True,
        needs=frozenset({"root", "faketime"}),
    ),
}


@dataclass(frozen=True, slots=True)
class Build:
    """A build that was started, and where its images, its log and what it saw of its surroundings go."""

    name: str
    variation: Variation
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def out(self) -> Path:
        """The images."""
        return self.folder / "out"

    def finish(self) -> dict[str, Any]:
        """Wait for the build and return what it saw of its surroundings."""
        code = self.process.wait(COMPILE_SECONDS)
        assert code == 0, f"{self.name}: exit code {code}: {(self.folder / 'log').read_text()[-2000:]}"
        witness: dict[str, Any] = json.loads((self.out / "witness.json").read_text())
        return witness


def fill_cache(target: Path, cache: Path, *, kernels: bool) -> None:
    """A cache of the build's own with what ``cache`` has, as links where that is possible.

    Readable by every user, whatever the umask under which ``cache`` was filled.
    """
    for path in (cache / "inputs").iterdir():
        own = target / "inputs" / path.name
        try:
            if path.stat().st_mode & 0o004:
                os.link(path, own)
                continue
        except OSError:
            pass
        shutil.copyfile(path, own)
    for path in (cache / "kernel").iterdir() if kernels else ():
        if (path / "outputs.json").is_file():
            shutil.copytree(path, target / "kernel" / path.name, copy_function=shutil.copyfile)
            (target / "kernel" / path.name).chmod(0o755)


def start(  # noqa: PLR0917 - what, under what, where and with what
    name: str,
    variation: Variation,
    folder: Path,
    source: Path,
    path: Sequence[Path],
    python: str,
    cache: Path,
) -> Build:
    """Start the builder, found on ``path``, on ``source``; ``folder`` is fresh, ``cache`` is filled."""
    out, work = folder / "out", folder / "cache" / ("kernel" if variation.fresh else "work")
    for made in (out, *(folder / "cache" / name for name in ("work", "partial", "inputs", "kernel"))):
        made.mkdir(parents=True)
    fill_cache(folder / "cache", cache, kernels=not variation.fresh)
    if variation.uid:
        for below in (folder, *folder.rglob("*")):
            if below.is_dir():
                os.chown(below, variation.uid, variation.uid)
    order = {
        "source": str(source),
        "out": str(out),
        "jobs": variation.jobs,
        "fresh": variation.fresh,
        "host": variation.host,
        "mount": mount_arguments(variation.mount, folder, work),
        "cpus": sorted(os.sched_getaffinity(0))[: len(variation.cpus)],
        "memory": variation.memory,
        "stack": variation.stack,
        "uid": variation.uid,
        "umask": variation.umask,
        "python": python,
        "environment": dict(variation.environment),
    }
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "COATTEST_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if variation.mount == "disorderfs":
        ordered = folder / "ordered"
        ordered.mkdir()
        options = ["--multi-user=yes", "--shuffle-dirents=yes", "--quiet"]
        subprocess.run(["disorderfs", *options, str(ordered), str(work)], check=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "vary.py"), json.dumps(order)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return Build(name, variation, process, folder)


def mount_arguments(kind: str, folder: Path, work: Path) -> tuple[str, str, str, str] | None:
    """Source, target, type and data of the mount that ``work`` is on, for those that vary.py makes."""
    if kind == "tmpfs":
        return "tmpfs", str(work), "tmpfs", "mode=0777"
    if kind == "overlay":
        layers = {name: folder / "layers" / name for name in ("lowerdir", "upperdir", "workdir")}
        for path in layers.values():
            path.mkdir(parents=True)
        return "overlay", str(work), "overlay", ",".join(f"{name}={path}" for name, path in layers.items())
    return None
