"""The metadata section: JSON that is not measured, in the key order of AWS's writer."""

from __future__ import annotations

import json
from typing import Any

from coattest import __version__


def metadata_section(
    name: str,
    version: str | None,
    *,
    system: str = "Linux",
    kernel: str = "unknown",
    built: str = "1970-01-01T00:00:00Z",
    custom: Any = None,
) -> bytes:
    """The section's data. ``built`` is a time in RFC 3339, ``custom`` a JSON value."""
    document = {
        "ImageName": name,
        "ImageVersion": version,
        "BuildMetadata": {
            "BuildTime": built,
            "BuildTool": "coattest",
            "BuildToolVersion": __version__,
            "OperatingSystem": system,
            "KernelVersion": kernel,
        },
        "DockerInfo": {},
        "CustomMetadata": custom,
    }
    return json.dumps(document, separators=(",", ":")).encode()
