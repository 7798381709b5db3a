#!/bin/bash
# Start the enclave, compare what nitro-cli measured with the release, and stay for as long as it runs. Never in debug
# mode. A name that is taken would become another (coattest_1), so whatever runs is ended first.
set -euo pipefail
image=/var/lib/coattest/image/image.eif
runs() {
  # Not in a pipe: grep would be gone before nitro-cli has written all, and that looks like a failure of nitro-cli.
  described=$(nitro-cli describe-enclaves) && grep -qF '"State": "RUNNING"' <<< "$described"
}
nitro-cli terminate-enclave --all
trap 'nitro-cli terminate-enclave --all &> /dev/null' EXIT
if ! started=$(nitro-cli run-enclave --enclave-name coattest --enclave-cid 16 --eif-path "$image" \
  --cpu-count "$COATTEST_CPUS" --memory "$COATTEST_MEMORY" 2>&1); then
  echo "$started"
  # Its reason comes before its advice, and what comes last is what people are shown.
  echo "nitro-cli did not start it: $(grep -m1 '^\[ E' <<< "$started")" >&2
  exit 1
fi
echo "$started"
described=$(nitro-cli describe-enclaves)
for pcr in 0 1 2; do
  expected=COATTEST_PCR$pcr
  if ! grep -qF "\"PCR$pcr\": \"${!expected}\"" <<< "$described"; then
    echo "nitro-cli measured another PCR$pcr than the release has" >&2
    exit 1
  fi
done
systemd-notify --ready
# One look that fails is not the end of an enclave that runs.
while runs || { sleep 5 && runs; }; do sleep 5; done
echo "the enclave is gone" >&2
exit 1
