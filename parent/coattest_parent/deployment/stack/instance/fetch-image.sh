#!/bin/bash
# The decided image from the bucket, checked by its digest before anything reads it; one that is there is checked too.
# It tries again by itself: of a unit that systemd starts again, the first failure ends all that require it.
set -euo pipefail
cd "$STATE_DIRECTORY"
for wait in 10 10 10 10 0; do
  if [ ! -e image.eif ] && aws s3api get-object --bucket "$COATTEST_ARTIFACTS" --key "$COATTEST_IMAGE" image.part; then
    mv image.part image.eif
  fi
  if [ -e image.eif ]; then
    if echo "$COATTEST_IMAGE_SHA384  image.eif" | sha384sum --check --strict --status; then
      exit 0
    fi
    echo "the image in the bucket is not the decided one" >&2
    rm -f image.eif
  fi
  sleep "$wait"
done
exit 1
