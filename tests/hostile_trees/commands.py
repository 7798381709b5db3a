"""Every command that takes a folder or a file, as it is tried on a hostile checkout."""

from __future__ import annotations

from collections.abc import Mapping

A = "--attestations attestations"
WHO = "--key {key} --member project-native"
DECIDE = f"{A} --root {{root}}"
BIND = f"{DECIDE} --release 0.1.0"
AWS = "--region eu-central-1 --account 111122223333"
F = "files"

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "auction bid": (
        f"--manifest {F}/manifest.cbor --bids {F}/bids.csv --buyer buyer-1 --auction-key {F}/key.pem"
        f" --record {F}/buyer.json --out {{out}} {BIND}",
    ),
    "auction certify": (
        f"--key {F}/key.pem --auction-key {F}/key.pem --member buyer-1 --out {{out}} --bids s3://bucket/b/"
        " --kms-key arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000000",
    ),
    "auction manifest": (
        f"--auction a-1 --currency EUR --lots {F}/lots.csv --buyer {F}/buyer.json --out {{out}}"
        " --closes 2030-01-01T00:00:00Z --publish-by 2030-01-02T00:00:00Z",
    ),
    "auction open": (
        f"--manifest {F}/manifest.cbor --seal {F}/seal.cbor --enclave unix:/nowhere --out {{out}}",
    ),
    "auction seal": (
        f"--manifest {F}/manifest.cbor --auction-key {F}/key.pem --own-bid {F}/bid.cose --buyer buyer-1"
        f" --record {F}/buyer.json --bid-digest buyer-1={'ab' * 48} --out {{out}} {BIND}",
    ),
    "auction serve": (f"--spool {F}/spool --enclave unix:/nowhere --once",),
    "auction show": (f"--manifest {F}/manifest.cbor",),
    "auction withdraw": (f"{WHO} --record {F}/buyer.json {A}",),
    "deploy-from-attestation apply": (
        f"--image {F}/image.eif --target local --state {F}/state {BIND}",
        f"--image {F}/image.eif --target aws --plan {F}/plan --bundle {F}/bundle.json --root {{root}}"
        " --release 0.1.0",
    ),
    "deploy-from-attestation destroy": (f"--target local --state {F}/state",),
    "deploy-from-attestation plan": (
        f"--image {F}/image.eif --target local --state {F}/state {BIND}",
        f"--image {F}/image.eif --target aws --out {{out}} --report {F}/measurements.json --name n"
        f" --vpc vpc-1 --subnet subnet-1 --ami ami-1 --wheel {F}/program.whl --wheelhouse {F}/wheelhouse"
        f" {AWS} {BIND}",
    ),
    "deploy-from-attestation smoke": (
        f"--measurements {F}/measurements.json --image {F}/image.eif",
        f"--measurements {F}/measurements.json --image {F}/image.eif --key {{key}} --report {{out}}",
    ),
    "deploy-from-attestation status": (
        f"--target local --state {F}/state {BIND}",
        f"--target aws --plan {F}/plan --image {F}/image.eif {BIND}",
    ),
    "eif build": ("--source . --out {out}", "--source . --out out"),
    "eif container build": (f"{F}/image.tar --style nitro-cli --blobs {F}/blobs --out {{out}}",),
    "eif container check": (
        f"{F}/image.tar --expect {F}/measurements.json",
        f"{F}/image --eif {F}/image.eif --blobs {F}/blobs",
        f"{F}/image.tar --style coattest --eif {F}/image.eif --json",
    ),
    "eif container inspect": (f"{F}/image", f"{F}/image.tar --json", "."),
    "eif container ramdisk": (
        f"{F}/image.tar --style nitro-cli --out {{out}}",
        f"{F}/image.tar --style coattest --nsm --out {{out}}",
    ),
    "eif describe": (f"{F}/image.eif --files --json", "out/image.eif"),
    "eif diff": (f"{F}/image.eif out/image.eif", f"{F}/image.eif {F}/image.eif --json"),
    "eif lock": ("--source . --check --mirror file://{tree}/files/mirror", "--source ."),
    "eif measure": (f"{F}/image.eif",),
    "eif sbom": ("--source . --out {out}",),
    "eif sign": (f"{F}/image.eif --key {F}/key.pem --certificate {F}/certificate.pem --out {{out}}",),
    "eif stage assemble": (
        f"--source . --stage {{out}} --compiled {F}/compiled --out {{out}} --mirror file://{{tree}}/files/mirror",
    ),
    "eif stage prepare": ("--source . --stage {out} --mirror file://{tree}/files/mirror",),
    "nitro-local run-enclave": (
        f"{F}/image.eif --directory {{out}} --instance-id i-0123456789abcdef0"
        " --role-arn arn:aws:iam::111122223333:role/parent",
    ),
    "verify attestation": (
        f"{F}/document.bin --expect {F}/measurements.json",
        f"{F}/documents --unsafe-any-measurement --json",
        f"{F}/documents --unsafe-any-measurement --at index",
    ),
    "verify audit": (
        f"{F}/trail --key arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000000"
        f" --parent-role arn:aws:iam::111122223333:role/parent --public-keys {F}/keys.json {DECIDE}",
    ),
    "verify commit": (f"{WHO} --rebuild out {A}",),
    "verify fleet": (
        f"{F}/FLEET.toml {DECIDE}",
        f"{F}/FLEET.toml --bundle {F}/bundle.json --root {{root}} --state {F}/state.json",
    ),
    "verify inputs": (
        "--source . --out {out} --mirror file://{tree}/files/mirror",
        "--source . --out out/inputs.json",
    ),
    "verify lint-change": ("HEAD --root {root}",),
    "verify log append": (DECIDE,),
    "verify log cosign": (f"{WHO} {DECIDE}",),
    "verify log show": (DECIDE,),
    "verify members countersign": (f"{WHO} {A}",),
    "verify members enroll": (f"--member somebody={F}/key.pem {A}",),
    "verify members init": (f"--member somebody={F}/key.pem {A}",),
    "verify members show": (DECIDE,),
    "verify policy explain": (f"--member project-native --account 111122223333 {BIND}",),
    "verify policy make": (f"--member project-native --account 111122223333 {BIND}",),
    "verify policy prove": (f"{F}/policy.json {DECIDE}",),
    "verify quorum": (DECIDE, f"--bundle {F}/bundle.json --root {{root}}", "--json"),
    "verify rebuild": (
        f"--source . --out {{out}} --claimed out {A} --mirror file://{{tree}}/files/mirror",
        f"--source . --out out {A} --mirror file://{{tree}}/files/mirror",
    ),
    "verify receipt": (f"{F}/result.cbor --manifest {F}/manifest.cbor --html {{out}} {DECIDE}",),
    "verify release archive": (f"{WHO} --out {{out}} {BIND}",),
    "verify release bundle": (f"--out {{out}} --lock build/image.lock {DECIDE}",),
    "verify release links": (f"--out {{out}} {DECIDE}",),
    "verify release publish": (
        f"{WHO} --rebuild out --claim {F}/claim.json {DECIDE}",
        f"{WHO} --rebuild out {DECIDE}",
    ),
    "verify release review": (
        f"--source . --since {F}/bundle.json --inputs out/inputs.json {DECIDE}",
        f"--source . --since {F}/key.pem {WHO} --note fine {DECIDE}",
    ),
    "verify release revoke": (f"{WHO} --reason why {DECIDE}",),
    "verify release unrevoke": (f"{WHO} --reason why {DECIDE}",),
    "verify release excuse": (f"{WHO} --whom buyer-2 --reason why {DECIDE}",),
    "verify release withdraw": (f"{WHO} --reason why {DECIDE}",),
    "verify release which": (
        f"{F}/image.eif {DECIDE}",
        f"{F}/measurements.json --bundle {F}/bundle.json --root {{root}}",
    ),
    "verify report": (
        f"{WHO} --out {{out}} --bids s3://bucket/b/ --parent-role arn:aws:iam::111122223333:role/parent"
        f" --policy {F}/measurements.json"
        f" --kms-key arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000000 {BIND}",
    ),
    "verify sign-pcrs": (f"{WHO} --rebuild out {A}", f"{WHO} --dissent --reason why --rebuild out {A}"),
}
"""Command to the arguments that it is tried with, in the checkout as the current folder."""

NOT_TRIED: Mapping[str, str] = {
    "auction keygen": "reads nothing",
    "auction proxy": "reads nothing",
    "deploy-from-attestation live": "reads nothing",
    "eif init": "reads nothing of a checkout, and writes into an empty folder only",
    "nitro-local boot": "needs QEMU, which reads the image that `eif describe` reads",
    "nitro-local demo": "builds and runs the checkout: it is for one's own",
    "nitro-local terminate-enclave": "reads the folder that it wrote",
    "nitro-local up": "reads nothing of a checkout",
    "verify keygen": "reads nothing of a checkout",
    "verify turn": "fetches from the user's address first; `verify sign-pcrs`, `log append` read the same",
    "verify policy apply": "asks AWS first; `verify policy make` reads the same",
    "verify policy check": "asks AWS first; `verify policy make` reads the same",
}
"""Why the others are not."""
