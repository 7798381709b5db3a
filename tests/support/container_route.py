"""The container route without a registry: bases made by mmdebstrap, the Dockerfile run by buildah.

    python tests/support/container_route.py SOURCE OUT       (root, buildah, mmdebstrap)

writes what the Dockerfile's last stage holds into the new folder OUT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from coattest_build.cache import cache_folder

PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
TOOLS = ("buildah", "mmdebstrap")


def missing() -> list[str]:
    """What this machine lacks for the route."""
    return [name for name in TOOLS if not shutil.which(name)] + (["root"] if os.geteuid() else [])


def buildah(*arguments: str) -> str:
    """Run buildah with the options that need no privilege beyond root's, and return what it printed."""
    command = ["buildah", "--storage-driver", "vfs", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def make_base(suite: str, folder: Path) -> str:
    """A base image of a Debian suite, made by mmdebstrap once and kept in the cache; its name.

    No registry is asked. The base reaches package indexes as this machine does: with its certificates.
    """
    archive = cache_folder() / "bases" / f"{suite}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        made = archive.with_name(f"{suite}.part.tar")
        command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", suite, str(made)]
        subprocess.run(command, check=True)
        made.replace(archive)
    pip = folder / "pip.conf"
    pip.write_text(f"[global]\ncert = {CERTIFICATES}\n")
    name = f"localhost/coattest-base-{suite}"
    container = buildah("from", "scratch")
    try:
        buildah("add", "--quiet", container, str(archive), "/")
        buildah("add", "--quiet", container, CERTIFICATES, CERTIFICATES)
        buildah("add", "--quiet", container, str(pip), "/etc/pip.conf")
        buildah("commit", "--quiet", container, name)
    finally:
        buildah("rm", container)
    return name


def build(context: Path, suite: str, out: Path) -> None:
    """Run the Dockerfile of ``context`` on a base of ``suite``; each run compiles kernel and modules anew."""
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        folder = Path(name)
        base = make_base(suite, folder)
        image = f"localhost/coattest-images-{suite}"
        arguments = ["--build-arg", f"BASE={base}", "--build-arg", f"COATTEST_RUN={folder.name}"]
        for variable in ("COATTEST_DEBIAN_MIRROR",):
            if os.environ.get(variable):
                arguments += ["--build-arg", f"{variable}={os.environ[variable]}"]
        dockerfile = str(context / "Dockerfile.reproducible")
        buildah("bud", "--isolation", "chroot", *arguments, "-f", dockerfile, "-t", image, str(context))
        container = buildah("from", "--pull-never", image)
        try:
            shutil.copytree(buildah("mount", container), out)
        finally:
            buildah("rm", container)
            for used in (image, base):
                buildah("rmi", "--force", used)


if __name__ == "__main__":
    if lacking := missing():
        sys.exit(f"the container route needs {', '.join(lacking)}")
    build(Path(sys.argv[1]), "bookworm", Path(sys.argv[2]))
