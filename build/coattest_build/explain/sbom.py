"""An image's CycloneDX bill of materials: a function of the lock and of image.toml.

The same lock gives the same bytes: the serial number follows from the lock's digest and the time is its
SOURCE_DATE_EPOCH. Nothing is fetched. Format: CycloneDX 1.6, JSON (ECMA-424); package URLs: the purl
specification's types ``deb`` and ``pypi``.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from coattest.errors import require_kind
from coattest_build.image import ImageSpec
from coattest_build.inputs.lock import Lock, LockedContainer, LockedPackage, LockedWheel

SPEC_VERSION = "1.6"
RUNTIME, KERNEL = "runtime", "kernel"


def bill_of_materials(spec: ImageSpec, lock: Lock, lock_sha256: str, version: str) -> dict[str, Any]:
    """The bill of materials (JSON). ``lock_sha256`` is of the lock's bytes, ``version`` is coattest's.

    Components of the image have scope ``required``: runtime packages, wheels and the kernel's source. Those
    that only compiled it have scope ``excluded``. Each has its SHA-256 from the lock. A container image is
    one component.
    """
    require_kind(spec, ImageSpec, "spec")
    require_kind(lock, Lock, "lock")
    packages = sorted(lock.packages, key=lambda package: (package.name, package.version))
    wheels = sorted(lock.wheels, key=lambda wheel: wheel.name)
    components = [
        *(_package(package) for package in packages),
        *(_wheel(wheel) for wheel in wheels),
        *([_container(lock.container)] if lock.container else []),
    ]
    image = f"image:{spec.name}@{spec.release}"
    built_from = [part["bom-ref"] for part in components if part["scope"] == "required"]
    made = datetime.fromtimestamp(lock.source_date_epoch, timezone.utc)
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'tag:coattest,2026:lock/{lock_sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycles": [{"phase": "pre-build"}],
            "tools": {"components": [{"type": "application", "name": "coattest", "version": version}]},
            "component": {
                "type": "firmware",
                "bom-ref": image,
                "name": spec.name,
                "version": spec.release,
                "properties": _properties(architecture=lock.architecture, lock_sha256=lock_sha256),
            },
        },
        "components": components,
        "dependencies": [
            {"ref": image, "dependsOn": built_from},
            *({"ref": part["bom-ref"]} for part in components),
        ],
    }


def _package(package: LockedPackage) -> dict[str, Any]:
    purl = (
        f"pkg:deb/debian/{quote(package.name, safe=':')}@{quote(package.version, safe=':')}"
        f"?arch={package.architecture}"
    )
    inside = RUNTIME in package.use or KERNEL in package.use
    return _component(
        "operating-system" if KERNEL in package.use else "library",
        package.name,
        package.version,
        purl,
        package.sha256,
        _properties(use=",".join(package.use), path=package.path, size=str(package.size)),
        inside=inside,
    )


def _wheel(wheel: LockedWheel) -> dict[str, Any]:
    purl = (
        f"pkg:pypi/{quote(wheel.name.lower().replace('_', '-'), safe=':')}@{quote(wheel.version, safe=':')}"
        f"?file_name={quote(wheel.file, safe=':')}"
    )
    properties = _properties(use=RUNTIME, size=str(wheel.size))
    return _component("library", wheel.name, wheel.version, purl, wheel.sha256, properties)


def _container(pin: LockedContainer) -> dict[str, Any]:
    """A container image, of which no index knows: what is in it is not listed here."""
    name = f"sha256:{pin.config}"
    origin = "taken as given, not built from source"
    properties = _properties(use=RUNTIME, platform=pin.platform, origin=origin)
    return _component("container", "container image", name, f"container:{name}", pin.config, properties)


def _component(  # noqa: PLR0917 - the order of its fields
    kind: str, name: str, version: str, ref: str, sha256: str, properties: Any, *, inside: bool = True
) -> dict[str, Any]:
    """A component, by its package URL or, of what has none, by another reference."""
    return {
        "type": kind,
        "bom-ref": ref,
        "name": name,
        "version": version,
        "scope": "required" if inside else "excluded",
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        **({"purl": ref} if ref.startswith("pkg:") else {}),
        "properties": properties,
    }


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"coattest:{name}", "value": value} for name, value in sorted(values.items())]
