#!/bin/bash
# The decided image from the bucket, checked by its digest before anything reads it; one that is there is checked too.
set -euo pipefail
cd "$STATE_DIRECTORY"
if [ ! -e image.eif ]; then
  aws s3api get-object --bucket "$COATTEST_ARTIFACTS" --key "$COATTEST_IMAGE" image.part
  mv image.part image.eif
fi
if ! echo "$COATTEST_IMAGE_SHA384  image.eif" | sha384sum --check --strict --status; then
  echo "the image in the bucket is not the decided one" >&2
  rm -f image.eif
  exit 1
fi
