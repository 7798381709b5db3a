"""The rooms stay rooms: who may import whom, what a folder holds, and what is shipped."""

from __future__ import annotations

import functools
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from coattest_build.starts import OWN_PARTS
from support.source_tree import PACKAGES, ROOT, circles, imports, modules, with_packages

PROTOCOL = "coattest_enclave.protocol"

MAY_IMPORT = {
    "coattest": set[str](),
    "coattest_enclave": set[str](),
    "coattest_build": {"coattest"},
    "coattest_verify": {"coattest", "coattest_build", PROTOCOL},
    "coattest_parent": {"coattest", "coattest_verify", PROTOCOL},
    "coattest_local": {
        "coattest",
        "coattest_build",
        "coattest_enclave",
        "coattest_parent",
        "coattest_verify",
    },
}
"""Each package, and what it may import of ours beside itself. Nothing imports ``coattest_local``."""

ANY_PAYLOAD = (
    "coattest_enclave.payload",
    "coattest_parent.deployment",
    "coattest_parent.link",
    "coattest_verify.attestation",
    "coattest_verify.audit",
    "coattest_verify.fleet",
    "coattest_verify.keypolicy",
    "coattest_verify.quorum",
    "coattest_verify.rebuild",
    "coattest_verify.signatures",
)
"""Rooms that serve any enclave: they know nothing of auctions."""

OF_ANY_PAYLOAD = {
    f"{PROTOCOL}.{name}" for name in ("alive", "buffers", "canonical", "errors", "key_arn", "wire")
}
"""What of the enclave's protocol is not about auctions."""

LIBRARY = {
    "coattest_enclave.payload": {
        f"{PROTOCOL}.{name}" for name in ("alive", "buffers", "errors", "key_arn", "wire")
    },
    "coattest_verify.attestation": {"coattest"},
}
"""Rooms that are used as a library alone, and all that they may import of ours."""

MOST_MODULES = 14
"""Modules in a folder beside its subfolders; a folder of more wants to be two."""

MODULES = modules()


@functools.cache
def graph() -> dict[str, set[str]]:
    """Every module of ours, and those of ours that it imports."""
    return {name: imports(path.read_text(), MODULES) for name, path in MODULES.items()}


def lies_in(module: str, rooms: set[str]) -> bool:
    """Whether a module is one of the rooms or lies in one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def offences(importer: str, allowed: set[str]) -> list[str]:
    """The imports of a package or room that are neither its own nor allowed."""
    return [
        f"{name} imports {module}"
        for name, found in graph().items()
        if lies_in(name, {importer})
        for module in sorted(found)
        if not lies_in(module, {importer, *allowed})
    ]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_only_those_it_may(package: str) -> None:
    """At any depth of a module, in functions too."""
    assert offences(package, MAY_IMPORT[package]) == []


@pytest.mark.parametrize("room", sorted(LIBRARY))
def test_a_library_stands_alone(room: str) -> None:
    """It is usable without the rooms beside it."""
    assert offences(room, LIBRARY[room]) == []


@pytest.mark.parametrize("room", ANY_PAYLOAD)
def test_a_room_for_any_payload_knows_no_auction(room: str) -> None:
    """Neither the auction's rooms nor its messages."""
    found = [
        f"{name} imports {module}"
        for name, below in graph().items()
        if lies_in(name, {room})
        for module in sorted(below)
        if lies_in(module, {"coattest_verify.auction", "coattest_parent.auction"})
        or (lies_in(module, {PROTOCOL}) and module not in OF_ANY_PAYLOAD)
    ]
    assert found == []
    assert any(lies_in(name, {room}) for name in MODULES)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Over all packages, with imports in functions and the packages that an imported module lies in."""
    assert circles(with_packages(graph())) == []


def test_the_rules_notice_an_offence() -> None:
    """In every spelling, at any depth; what is for type checkers does not count."""
    known = dict.fromkeys(("coattest_enclave", "coattest_enclave.session", "coattest_local.host"))
    assert imports("from coattest_enclave import session", known) == {"coattest_enclave.session"}
    assert imports("from coattest_enclave import Name", known) == {"coattest_enclave"}
    assert imports("def f():\n    import coattest_local.host.ca", known) == {"coattest_local.host"}
    assert imports("if TYPE_CHECKING:\n    import coattest_local.host", known) == set()
    assert imports("if TYPE_CHECKING:\n    x\nelse:\n    import coattest_enclave", known) == {
        "coattest_enclave"
    }
    with pytest.raises(ValueError, match="relative"):
        imports("from . import session", known)
    assert not lies_in("coattest_enclave.session", MAY_IMPORT["coattest_verify"])
    assert not lies_in("coattest_verify", MAY_IMPORT["coattest"])
    assert lies_in("coattest_enclave.protocol.wire", MAY_IMPORT["coattest_verify"])
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []
    graph = {"a": {"a.b"}, "a.b": {"c"}, "a.d": set(), "c": {"a.d"}}
    assert circles(graph) == []
    assert circles(with_packages(graph)) == [["a", "a.b", "c"]]


def test_no_folder_holds_too_many_modules() -> None:
    """Its subfolders and the package's own file do not count; the tests' folders follow the same rule."""
    paths = (*MODULES.values(), *(ROOT / "tests").rglob("*.py"))
    count = Counter(path.parent for path in paths if path.name != "__init__.py")
    crowded = {str(folder.relative_to(ROOT)): n for folder, n in count.items() if n > MOST_MODULES}
    assert crowded == {}


def test_no_module_lies_directly_in_a_top_level_folder() -> None:
    """A stray file would become importable by its bare name; build/__init__.py would hide PyPA's build."""
    strays = [
        str(path.relative_to(ROOT))
        for folder in ("attestations", "build", "common", "enclave", "local", "parent", "verify")
        for path in (ROOT / folder).glob("*.py")
    ]
    assert strays == []


def build_wheel(destination: Path) -> Path:
    """Build the project's wheel into a folder and return its path."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(destination), str(ROOT)],
        check=True,
        capture_output=True,
        cwd=destination.parent,
    )
    (wheel,) = destination.glob("*.whl")
    return wheel


def test_the_wheel_holds_all_six_packages_and_is_the_same_twice(tmp_path: Path) -> None:
    """Every module of every room is in the wheel, nothing else is, and two builds give the same bytes."""
    first, second = build_wheel(tmp_path / "a"), build_wheel(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    present = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = {f"coattest_build/starts/own/{part}" for part in (*OWN_PARTS, "image.toml")}
    assert shipped == present | own
    assert {name.split("/")[0] for name in shipped} == set(PACKAGES)
