#!/bin/bash
# Start the enclave, compare what nitro-cli measured with the release, and stay for as long as it runs. Never in debug
# mode. A name that is taken would become another (coattest_1), so whatever runs is ended first.
set -euo pipefail
image=/var/lib/coattest/image/image.eif
nitro-cli terminate-enclave --all
nitro-cli run-enclave --enclave-name coattest --enclave-cid 16 --eif-path "$image" \
  --cpu-count "$COATTEST_CPUS" --memory "$COATTEST_MEMORY"
trap 'nitro-cli terminate-enclave --all' EXIT
described=$(nitro-cli describe-enclaves)
for pcr in 0 1 2; do
  expected=COATTEST_PCR$pcr
  if ! grep -qF "\"PCR$pcr\": \"${!expected}\"" <<< "$described"; then
    echo "nitro-cli measured another PCR$pcr than the release has" >&2
    exit 1
  fi
done
systemd-notify --ready
while nitro-cli describe-enclaves | grep -qF '"State": "RUNNING"'; do sleep 5; done
echo "the enclave is gone" >&2
exit 1
