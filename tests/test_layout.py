"""The rooms stay rooms: who may import whom, and what is shipped."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {
    "coattest_build": ROOT / "build" / "coattest_build",
    "coattest_enclave": ROOT / "enclave" / "coattest_enclave",
    "coattest_local": ROOT / "local" / "coattest_local",
    "coattest_parent": ROOT / "parent" / "coattest_parent",
    "coattest_verify": ROOT / "verify" / "coattest_verify",
}

MESSAGE_MODULES = {
    "coattest_enclave.protocol.canonical",
    "coattest_enclave.protocol.cose",
    "coattest_enclave.protocol.messages",
    "coattest_enclave.protocol.wire",
}

MAY_IMPORT = {
    "coattest_enclave": set(),
    "coattest_build": set(),
    "coattest_verify": {"coattest_build", *MESSAGE_MODULES},
    "coattest_parent": {"coattest_verify", *MESSAGE_MODULES},
    "coattest_local": {"coattest_build", "coattest_enclave", "coattest_parent", "coattest_verify"},
}


def imported_modules(source: str) -> set[str]:
    """Every absolute module name that a source file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(submodules & MESSAGE_MODULES or {node.module})
    return names


def allowed(importer: str, module: str) -> bool:
    """Whether a package may import a module of ours."""
    return any(
        module == permitted or module.startswith(f"{permitted}.")
        for permitted in {importer, *MAY_IMPORT[importer]}
    )


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_room_imports_only_the_rooms_it_may(package: str) -> None:
    """No module imports a room that the design does not allow it."""
    sources = sorted(PACKAGES[package].rglob("*.py"))
    assert sources
    offences = [
        f"{source.relative_to(ROOT)} imports {module}"
        for source in sources
        for module in sorted(imported_modules(source.read_text()))
        if module.startswith("coattest_") and not allowed(package, module)
    ]
    assert offences == []


def test_the_import_rule_notices_an_offence() -> None:
    """The check itself fails on an import that is not allowed, in every spelling."""
    assert imported_modules("from coattest_enclave import server") == {"coattest_enclave"}
    assert not allowed("coattest_verify", "coattest_enclave")
    assert not allowed("coattest_parent", "coattest.errors")
    assert imported_modules("def f():\n    import coattest_local.host.enclave") == {
        "coattest_local.host.enclave"
    }
    assert not allowed("coattest_verify", "coattest_local.host.enclave")
    assert allowed("coattest_verify", "coattest_enclave.protocol.wire")


def test_no_module_lies_directly_in_a_top_level_folder() -> None:
    """A stray file would become importable by its bare name; build/__init__.py would hide PyPA's build."""
    strays = [
        str(path.relative_to(ROOT))
        for folder in ("attestations", "build", "enclave", "local", "parent", "verify")
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


def test_the_wheel_holds_all_five_packages_and_is_the_same_twice(tmp_path: Path) -> None:
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
    assert shipped == present
    assert {name.split("/")[0] for name in shipped} == set(PACKAGES)
