"""Runs a module of Python: the program behind ``python_program``, never imported.

Started as ``python -I -S module.py PATH ENTRY ARGUMENTS..``: PATH is a JSON list for sys.path, ENTRY a module
that is run as a program, or ``module:function``. Only the standard library.
"""

import importlib
import json
import runpy
import sys


def main() -> None:
    """Run the entry with the arguments that follow it."""
    path, entry = sys.argv[1:3]
    sys.path[:] = json.loads(path)
    name, _, function = entry.partition(":")
    sys.argv[:] = [entry, *sys.argv[3:]]
    if function:
        getattr(importlib.import_module(name), function)()
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
