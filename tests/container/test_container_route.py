"""Dockerfile.reproducible gives the native build's bytes on two bases, with the stages confined."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_build import builder, diff
from coattest_build.cache import cache_folder
from coattest_build.report import BuildReport

REPOSITORY = Path(__file__).parents[2]
CONTEXT = ("Dockerfile.reproducible", "LICENSE", "README.md", "pyproject.toml")
ROOMS = ("build", "enclave", "local", "parent", "verify")
BASES = ("bookworm", "trixie")
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
MINUTES = 60
pytestmark = pytest.mark.timeout(60 * MINUTES)


def buildah(*arguments: str) -> str:
    """Run buildah with the options that need no privilege beyond root's, and return what it printed."""
    command = ["buildah", "--storage-driver", "vfs", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the Dockerfile reads, so that both builds see the same source."""
    missing = [name for name in ("buildah", "mmdebstrap") if not shutil.which(name)]
    if missing or os.geteuid():
        reason = f"needs {', '.join([*missing, 'root'])}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("context")
    for name in CONTEXT:
        shutil.copyfile(REPOSITORY / name, folder / name)
    for name in ROOMS:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def native(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of a native build of the same source."""
    out = tmp_path_factory.mktemp("native")
    builder.build(context, out)
    return out


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


@pytest.fixture(scope="session", params=BASES)
def built(request: pytest.FixtureRequest, context: Path) -> Iterator[Path]:
    """What the Dockerfile put into its last stage, on one base; kernel and modules compiled for each."""
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        folder = Path(name)
        base = make_base(request.param, folder)
        image = f"localhost/coattest-images-{request.param}"
        arguments = ["--build-arg", f"BASE={base}", "--build-arg", f"COATTEST_RUN={folder.name}"]
        for variable in ("COATTEST_DEBIAN_MIRROR",):
            if os.environ.get(variable):
                arguments += ["--build-arg", f"{variable}={os.environ[variable]}"]
        dockerfile = str(context / "Dockerfile.reproducible")
        buildah("bud", "--isolation", "chroot", *arguments, "-f", dockerfile, "-t", image, str(context))
        container = buildah("from", "--pull-never", image)
        try:
            shutil.copytree(buildah("mount", container), folder / "out")
            yield folder / "out"
        finally:
            buildah("rm", container)
            for used in (image, base):
                buildah("rmi", "--force", used)


def test_the_container_gives_the_native_builds_bytes(native: Path, built: Path) -> None:
    """Both images are those of the native build; a difference is named by section, entry and offset."""
    for name in ("image.eif", "image.local.eif"):
        found = diff.compare(native / name, built / name).differences
        assert not found, str(found[0])
        assert (native / name).read_bytes() == (built / name).read_bytes()


def test_the_report_names_the_route_and_the_isolation(built: Path) -> None:
    """The report says container, that this run compiled the kernel, and how far the stage was confined."""
    report = BuildReport.from_json(json.loads((built / "build.json").read_text()))
    assert report.route == "container"
    assert report.kernel_compiled_here
    assert report.isolation["capabilities"] == "none"
    assert report.isolation["network"] == "sockets refused"
    assert report.isolation["no_new_privs"] is True


def test_the_last_stage_holds_the_images_and_the_report_only(built: Path) -> None:
    """Nothing of the base or the toolchain is handed out."""
    assert sorted(path.name for path in built.iterdir()) == ["build.json", "image.eif", "image.local.eif"]
