"""A source tree with a mirror and an index of its own: every package of image.toml, a few bytes each."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping
from pathlib import Path

from coattest_build import image
from support.build.packages import directory, file, make_deb
from support.build.wheelhouse import make_wheel_file

REPOSITORY = Path(__file__).parents[3]


def publish(
    mirror: Path, suite: str, date: str, packages: dict[str, str], depends: Mapping[str, str] = {}
) -> None:
    """Write a suite with these packages (name to version, and to Depends) below a folder, as archives do."""
    stanzas = []
    for name, version in packages.items():
        path = mirror / f"pool/{name}_{version}_amd64.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_deb(path, [directory("./usr/"), file(f"./usr/{name}", version.encode())])
        data = path.read_bytes()
        stanzas.append(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\nFilename: {path.relative_to(mirror)}\n"
            f"Depends: {depends.get(name, '')}\n"
        )
    index = lzma.compress("\n".join(stanzas).encode())
    folder = mirror / f"dists/{suite}"
    (folder / "main/binary-amd64").mkdir(parents=True, exist_ok=True)
    (folder / "main/binary-amd64/Packages.xz").write_bytes(index)
    listed = f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages.xz\n"
    (folder / "InRelease").write_text(f"Suite: {suite}\nDate: {date}\nSHA256:\n{listed}")


def make_small_archive(source: Path, mirror: Path, index: Path) -> Path:
    """Fill the three folders; the requirements file pins one wheel, whose path is returned."""
    (source / "build").mkdir(parents=True, exist_ok=True)
    (source / image.IMAGE_FILE).write_bytes((REPOSITORY / image.IMAGE_FILE).read_bytes())
    spec = image.load_spec(source)
    stable = dict.fromkeys((*spec.runtime, *spec.toolchain), "1.0-1")
    publish(mirror, "bookworm", "Sat, 11 Jul 2026 10:00:00 UTC", stable)
    backports = {spec.kernel.package: "6.12-1~bpo12+1", "make": "9-1"}
    publish(mirror, "bookworm-backports", "Sun, 12 Jul 2026 10:00:00 UTC", backports)
    wheel = make_wheel_file(index, "tinypkg", "1.0")
    assert spec.wheels
    requirements = source / spec.wheels.requirements
    requirements.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"tinypkg==1.0 --hash=sha256:{digest}\n")
    return wheel


def index_variables(index: Path) -> dict[str, str]:
    """The environment that sends pip to the index and nowhere else."""
    return {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
