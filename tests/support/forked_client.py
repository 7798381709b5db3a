"""``forked_client.py SOCKET CALL NAME ARGUMENTS``: run a command in a fork of the server at the socket.

It is started for every command, with ``-I -S``: it imports little.
"""

import json
import os
import signal
import socket
import sys

ADDRESS, CALL, NAME = sys.argv[1:4]
with socket.socket(socket.AF_UNIX) as server:
    server.connect(ADDRESS)
    REQUEST = {
        "call": CALL,
        "name": NAME,
        "arguments": sys.argv[4:],
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib is slow to import
        "environment": dict(os.environ),
    }
    TEXT = json.dumps(REQUEST).encode() + b"\n"
    server.sendall(TEXT[socket.send_fds(server, [TEXT], [0, 1, 2]) :])
    CODE = int(server.recv(16))
if CODE < 0:
    if -CODE != signal.SIGKILL:
        signal.signal(-CODE, signal.SIG_DFL)
    os.kill(os.getpid(), -CODE)
sys.exit(CODE)
