"""The container route without a registry: bases by mmdebstrap, the Dockerfile run by buildah or BuildKit.

    python tests/support/build/container_route.py SOURCE OUT       (root, buildah, mmdebstrap)

writes what the Dockerfile's last stage holds into the new folder OUT. BuildKit is that of Docker's daemon.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from coattest_build.inputs.cache import cache_folder, exclusive

PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE = f"FROM scratch\nADD base.tar /\nCOPY ca.crt {CERTIFICATES}\nCOPY pip.conf /etc/pip.conf\n"
TOOLS = ("buildah", "mmdebstrap")
START_SECONDS = 60
# A docker other than the distribution's may come without its build client.
DOCKER = "/usr/bin/docker"


class Engine(Protocol):
    """Builds images from a folder with a Dockerfile."""

    def image(self, name: str, context: Path) -> None:
        """Build ``context`` and keep the image as ``name``."""

    def save(self, name: str, archive: Path) -> None:
        """Write the image ``name`` to a new archive."""

    def export(self, dockerfile: Path, context: Path, arguments: Sequence[str], out: Path) -> None:
        """Build with ``arguments`` and put the last stage's files into the fresh directory ``out``."""


class Buildah:
    """buildah with a store of its own in ``folder``, and the options that need no privilege beyond root's.

    In the machine's store another run's `rmi --force` of a base with the same name ends our containers.
    """

    def __init__(self, folder: Path) -> None:
        places = ("--root", str(folder / "store"), "--runroot", str(folder / "run"))
        self._command = ("buildah", *places, "--storage-driver", "vfs")

    def image(self, name: str, context: Path) -> None:
        """As Engine."""
        self._buildah("bud", "--quiet", "--isolation", "chroot", "-t", name, str(context))

    def save(self, name: str, archive: Path) -> None:
        """As Engine, as an OCI archive."""
        self._buildah("push", "--quiet", name, f"oci-archive:{archive}")

    def carry(self, archive: Path, target: Path) -> None:
        """Take an image from an archive of docker into the store, and save it again."""
        name = self._buildah("pull", "--quiet", f"docker-archive:{archive}")
        self._buildah("push", "--quiet", name, f"docker-archive:{target}")

    def export(self, dockerfile: Path, context: Path, arguments: Sequence[str], out: Path) -> None:
        """As Engine."""
        name = f"localhost/coattest-images-{threading.get_ident()}"
        build = ("--isolation", "chroot", *arguments, "-f", str(dockerfile), "-t", name, str(context))
        self._buildah("bud", *build)
        container = self._buildah("from", "--pull-never", name)
        shutil.copytree(self._buildah("mount", container), out)

    def _buildah(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()


class BuildKit:
    """The BuildKit of a Docker daemon that `docker_daemon` started."""

    def __init__(self, address: str) -> None:
        self._environment = {**os.environ, "DOCKER_HOST": address, "DOCKER_BUILDKIT": "1"}

    def image(self, name: str, context: Path) -> None:
        """As Engine."""
        self._docker("build", "--quiet", "--tag", name, str(context))

    def save(self, name: str, archive: Path) -> None:
        """As Engine, as docker does."""
        self._docker("save", "--output", str(archive), name)

    def export(self, dockerfile: Path, context: Path, arguments: Sequence[str], out: Path) -> None:
        """As Engine."""
        more = ("--network", "host", "--progress", "plain", *arguments, "--file", str(dockerfile))
        self._docker("build", *more, "--output", str(out), str(context))

    def _docker(self, *arguments: str) -> None:
        subprocess.run([DOCKER, *arguments], check=True, env=self._environment)


@contextlib.contextmanager
def docker_daemon(folder: Path) -> Iterator[BuildKit]:
    """A Docker daemon of our own below ``folder``: no bridge, no rules in the firewall; ended afterwards."""
    address = f"unix://{folder / 'docker.sock'}"
    places = {name: str(folder / name) for name in ("data-root", "exec-root", "pidfile")}
    options = [part for name, path in places.items() for part in (f"--{name}", path)]
    offline = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--host", address, *options, *offline],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        probe = [DOCKER, "--host", address, "version"]
        while subprocess.run(probe, capture_output=True, check=False).returncode:
            said = (folder / "log").read_text()[-2000:]
            assert daemon.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield BuildKit(address)
    finally:
        daemon.terminate()
        daemon.wait()


def missing(*more: str) -> list[str]:
    """What this machine lacks for the route with buildah, and of the programs ``more``."""
    lacking = [name for name in (*TOOLS, *more) if not shutil.which(name)]
    return lacking + (["root"] if os.geteuid() else [])


def base_archive(suite: str) -> Path:
    """The root file system of a Debian suite with Python, made by mmdebstrap once and kept in the cache."""
    archive = cache_folder() / "bases" / f"{suite}.tar"
    with exclusive(archive.with_name(f"{suite}.lock")):
        if not archive.exists():
            made = archive.with_name(f"{suite}.part.tar")
            command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", suite, str(made)]
            subprocess.run(command, check=True)
            made.replace(archive)
    return archive


def make_base(suite: str, engine: Engine, folder: Path) -> str:
    """A base image of a Debian suite; its name.

    No registry is asked. The base reaches package indexes as this machine does: with its certificates.
    """
    folder.mkdir()
    (folder / "Dockerfile").write_text(BASE)
    (folder / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    shutil.copyfile(CERTIFICATES, folder / "ca.crt")
    shutil.copyfile(base_archive(suite), folder / "base.tar")
    name = f"localhost/coattest-base-{suite}"
    engine.image(name, folder)
    return name


def build(context: Path, suite: str, out: Path, engine: Engine) -> None:
    """Run the Dockerfile of ``context`` on a base of ``suite``; each run compiles kernel and modules anew."""
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        folder = Path(name)
        values = {"BASE": make_base(suite, engine, folder / "base"), "COATTEST_RUN": folder.name}
        if mirror := os.environ.get("COATTEST_DEBIAN_MIRROR"):
            values["COATTEST_DEBIAN_MIRROR"] = mirror
        arguments = [part for key, value in values.items() for part in ("--build-arg", f"{key}={value}")]
        engine.export(context / "Dockerfile.reproducible", context, arguments, out)


if __name__ == "__main__":
    if lacking := missing():
        sys.exit(f"the container route needs {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="coattest-buildah-") as store:
        build(Path(sys.argv[1]), "bookworm", Path(sys.argv[2]), Buildah(Path(store)))
