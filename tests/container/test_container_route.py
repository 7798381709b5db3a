"""Dockerfile.reproducible gives the native build's bytes, by buildah on two bases and by BuildKit."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from coattest_build import builder
from coattest_build.explain import diff
from coattest_verify.quorum.statements.statement import RebuildReport
from support.build import container_route

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = "Dockerfile.reproducible"
BUILDS = ("buildah-bookworm", "buildkit-bookworm", "buildah-trixie")
AT_ONCE = 2
MINUTES = 60
pytestmark = pytest.mark.timeout(60 * MINUTES)


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the Dockerfile reads, so that all builds see the same source."""
    if missing := container_route.missing("dockerd", container_route.DOCKER):
        reason = f"needs {', '.join(missing)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("context")
    for name in (DOCKERFILE, *copied_by(REPOSITORY / DOCKERFILE)):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def copied_by(dockerfile: Path) -> list[str]:
    """What the Dockerfile copies from its context, so that this test cannot forget a folder."""
    lines = [line.split() for line in dockerfile.read_text().splitlines()]
    return [
        name for words in lines if words[:1] == ["COPY"] and "--from" not in words[1] for name in words[1:-1]
    ]


@pytest.fixture(scope="session")
def native(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of a native build of the same source."""
    out = tmp_path_factory.mktemp("native")
    builder.build(context, out)
    return out


@pytest.fixture(scope="session")
def builds(request: pytest.FixtureRequest, context: Path) -> Iterator[dict[str, Future[Path]]]:
    """The wanted builds, two at once: while one unpacks or downloads, the other compiles."""
    wanted = [name for name in BUILDS if any(f"[{name}]" in item.name for item in request.session.items)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coattest-")))
        engines: dict[str, container_route.Engine] = {"buildah": container_route.Buildah(folder / "buildah")}
        if any(name.startswith("buildkit") for name in wanted):
            (folder / "docker").mkdir()
            daemon = container_route.docker_daemon(folder / "docker")
            engines["buildkit"] = stack.enter_context(daemon)
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))

        def build(name: str) -> Path:
            engine, _, suite = name.partition("-")
            container_route.build(context, suite, folder / name, engines[engine])
            return folder / name

        yield {name: pool.submit(build, name) for name in wanted}


@pytest.fixture(scope="session", params=BUILDS)
def built(request: pytest.FixtureRequest, builds: dict[str, Future[Path]]) -> Path:
    """What the Dockerfile put into its last stage; kernel and modules are compiled for each build."""
    return builds[request.param].result()


def test_the_container_gives_the_native_builds_bytes(native: Path, built: Path) -> None:
    """Both images are those of the native build; a difference is named by section, entry and offset."""
    for name in ("image.eif", "image.local.eif"):
        comparison = diff.compare(native / name, built / name)
        assert comparison.identical, comparison.line(comparison.findings[0])
        assert (native / name).read_bytes() == (built / name).read_bytes()


def test_the_report_names_the_route_and_the_isolation(built: Path) -> None:
    """The report says container, that this run compiled the kernel, and how far the stage was confined."""
    report = RebuildReport.read(json.loads((built / "build.json").read_text())).built
    assert report.route == "container"
    assert report.kernel_compiled
    assert report.isolation["capabilities"] == "none"
    assert report.isolation["network"] == "sockets refused"
    assert report.isolation["no_new_privs"] is True


def test_the_last_stage_holds_the_images_and_the_report_only(built: Path) -> None:
    """Nothing of the base or the toolchain is handed out."""
    assert sorted(path.name for path in built.iterdir()) == ["build.json", "image.eif", "image.local.eif"]
