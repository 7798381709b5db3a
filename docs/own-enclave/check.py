"""check.py FOLDER PROFILE: the document in FOLDER is of the decided enclave, over nonce and answer."""

import sys
from datetime import datetime, timezone
from hashlib import sha384
from pathlib import Path

from coattest_verify.attestation import ExpectNonce, ExpectPcrs, ExpectUserData, MaxAge, verify_document
from coattest_verify.attestation.profiles import root_for
from coattest_verify.quorum.decision import decide

folder, profile, now = Path(sys.argv[1]), sys.argv[2], datetime.now(timezone.utc)
decision = decide(Path("attestations"), root=None, profile=profile, now=now).require()
answer, nonce = (folder / "answer").read_bytes(), bytes.fromhex((folder / "nonce").read_text())
expected = [
    ExpectPcrs({index: bytes.fromhex(value) for index, value in decision.pcrs.items()}),
    ExpectNonce(nonce),
    ExpectUserData(sha384(answer).digest()),
    MaxAge(60_000),
]
verdict = verify_document((folder / "document.cbor").read_bytes(), expected, now=now, root=root_for(profile))
print(*verdict.findings or [f"{verdict.document.module_id} drew: {answer.decode().strip()}"], sep="\n")
sys.exit(0 if verdict.ok else 1)
