"""How every command writes a JSON document."""

from __future__ import annotations

import json
import sys
from typing import Any


def emit_json(document: Any) -> None:
    """Print one JSON document on stdout: sorted keys, two spaces, a final newline."""
    # Written as it is encoded: a million lots as one text would be the larger part of a gigabyte.
    json.dump(document, sys.stdout, indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()
