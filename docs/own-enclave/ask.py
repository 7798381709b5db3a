"""ask.py ADDRESS FOLDER NAME.. : have the enclave draw; answer, nonce and document go to FOLDER."""

import secrets
import struct
import sys
from pathlib import Path

from coattest_parent.link.channels import connect_to, parse_address

address, folder, *names = sys.argv[1:]
nonce, text = secrets.token_bytes(32), "\n".join(names).encode()
with connect_to(parse_address(address), 10) as stream, stream.makefile("rb") as answers:
    stream.sendall(nonce + struct.pack(">H", len(text)) + text)
    line = answers.read(*struct.unpack(">H", answers.read(2)))
    document = answers.read()
Path(folder).mkdir(exist_ok=True)
for name, content in (("answer", line), ("nonce", nonce.hex().encode()), ("document.cbor", document)):
    (Path(folder) / name).write_bytes(content)
sys.stdout.write(line.decode())
