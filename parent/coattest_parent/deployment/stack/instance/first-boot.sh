set -Eeuo pipefail
umask 022
# IMDSv2: the instance's own id, for the name of what it puts.
metadata=http://169.254.169.254/latest
token=$(curl -sSf --retry 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$metadata/api/token")
COATTEST_INSTANCE=$(curl -sSf --retry 5 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/instance-id")
export AWS_DEFAULT_REGION="$COATTEST_REGION"
failed() {
  trap - ERR
  tail -c 16000 /var/log/cloud-init-output.log > /run/coattest-failed.log
  aws s3api put-object --bucket "$COATTEST_RESULTS" --key "live/$COATTEST_STACK/$COATTEST_INSTANCE/failed.log" \
    --body /run/coattest-failed.log --content-type text/plain || true
  # Long enough to be looked at; then the group makes another.
  systemd-run --on-active=10min /usr/bin/systemctl poweroff
  exit 1
}
trap failed ERR
install -d -m 0755 /etc/coattest /opt/coattest /opt/coattest/instance /var/log/coattest
cat > /etc/coattest/place.env <<PLACE
AWS_DEFAULT_REGION=$COATTEST_REGION
COATTEST_ARTIFACTS=$COATTEST_ARTIFACTS
COATTEST_RESULTS=$COATTEST_RESULTS
COATTEST_STACK=$COATTEST_STACK
COATTEST_INSTANCE=$COATTEST_INSTANCE
PLACE
cd /opt/coattest/instance
aws s3api get-object --bucket "$COATTEST_ARTIFACTS" --key "parents/$COATTEST_CONFIGURATION.tar" configuration.tar
echo "$COATTEST_CONFIGURATION  configuration.tar" | sha256sum --check --strict
tar -xf configuration.tar --no-same-owner
# shellcheck source=/dev/null
. ./install.sh
