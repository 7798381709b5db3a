"""Runs a module of Python: the program behind ``python_program``, never imported.

Started as ``python -I -S module.py HOW ENTRY ARGUMENTS..``: HOW is a JSON object with ``path``, a list for
sys.path, and ``alone``, whether it may start no program; ENTRY a module that is run as a program, or
``module:function``. Only the standard library.
"""

import importlib
import json
import runpy
import sys

STARTING = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen")
"""What Python is about to do when it starts a program (docs.python.org, "Audit events table")."""


def refuse_starting(event: str, _: object) -> None:
    """An audit hook. Raises PermissionError: an OSError, as where the program is not there."""
    if event in STARTING:
        raise PermissionError("a package wants a program to be started here")


def main() -> None:
    """Run the entry with the arguments that follow it."""
    how, entry = json.loads(sys.argv[1]), sys.argv[2]
    sys.path[:] = how["path"]
    if how["alone"]:
        sys.addaudithook(refuse_starting)
    name, _, function = entry.partition(":")
    sys.argv[:] = [entry, *sys.argv[3:]]
    if function:
        getattr(importlib.import_module(name), function)()
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
