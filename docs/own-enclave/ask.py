"""ask.py ADDRESS FOLDER NAME.. : have the enclave draw; answer, nonce and document go to FOLDER."""

import secrets
import sys
from pathlib import Path

from coattest_enclave.protocol import wire
from coattest_parent.link.channels import connect_to, parse_address

address, folder, *names = sys.argv[1:]
nonce = secrets.token_bytes(32)
with connect_to(parse_address(address), 10) as stream:
    wire.write_frame(stream, wire.Frame(1, "draw", {"nonce": nonce, "names": names}))
    answer = wire.read_frame(stream)
if answer is None or answer.type != "result":
    sys.exit(f"no result: {answer}")
line, document = answer.body["line"], answer.body["document"]
Path(folder).mkdir(exist_ok=True)
for name, content in (("answer", line), ("nonce", nonce.hex().encode()), ("document.cbor", document)):
    (Path(folder) / name).write_bytes(content)
sys.stdout.write(line.decode())
