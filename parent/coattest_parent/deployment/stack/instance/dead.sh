#!/bin/bash
# The last words of a parent whose enclave stays dead: its logs go to the bucket, and after ten minutes it powers off.
# Its launch template says that this terminates it, and its group makes another.
set -uo pipefail
echo "the enclave stays dead"
# What failed comes last: apply and verify fleet show the last line.
cd /var/log/coattest || true
mapfile -t failed < <(ls -rt coattest-allocator.log coattest-image.log coattest-enclave.log)
tail -qc 4000 coattest-proxy.log coattest-live.log coattest-courier.log "${failed[@]}" |
  tail -c 16000 > /run/coattest-failed.log
aws s3api put-object --bucket "$COATTEST_RESULTS" --key "live/$COATTEST_STACK/$COATTEST_INSTANCE/failed.log" \
  --body /run/coattest-failed.log --content-type text/plain
sleep 600
systemctl poweroff
