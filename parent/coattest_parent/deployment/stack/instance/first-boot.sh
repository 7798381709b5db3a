set -Eeuo pipefail
umask 022
export AWS_DEFAULT_REGION="$COATTEST_REGION"
COATTEST_INSTANCE=unknown
failed() {
  trap - ERR
  set +e
  echo "coattest: the boot failed"
  sleep 1 # cloud-init writes its log through a pipe
  log=/run/coattest-failed.log
  tail -c 16000 /var/log/cloud-init-output.log > "$log"
  aws s3api put-object --bucket "$COATTEST_RESULTS" --key "live/$COATTEST_STACK/$COATTEST_INSTANCE/failed.log" \
    --body "$log" --content-type text/plain
  # To CloudWatch too, whose agent may not be there yet.
  logs=/coattest/$(sed -E 's/^coattest-(.*)-[0-9a-f]{12}$/\1/' <<< "$COATTEST_STACK")/boot
  stream="$COATTEST_INSTANCE-failed"
  python3 -c 'import json, sys, time
said = sys.stdin.buffer.read().decode("utf-8", "replace")
print(json.dumps([{"timestamp": int(time.time() * 1000), "message": said}]))' < "$log" > "$log.json"
  aws logs create-log-stream --log-group-name "$logs" --log-stream-name "$stream"
  aws logs put-log-events --log-group-name "$logs" --log-stream-name "$stream" --log-events "file://$log.json"
  # Long enough to be looked at; then the group makes another.
  systemd-run --on-active=10min /usr/bin/systemctl poweroff
  exit 1
}
trap failed ERR
# IMDSv2: the instance's own id, for the name of what it puts.
metadata=http://169.254.169.254/latest
token=$(curl -sSf --retry 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$metadata/api/token")
COATTEST_INSTANCE=$(curl -sSf --retry 5 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/instance-id")
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
