# shellcheck shell=bash
# Run by first-boot.sh, in its shell: what fails here ends there. It affects availability only, as everything on a
# parent does: the enclave's own document tells which code runs.
dnf install -y aws-nitro-enclaves-cli amazon-cloudwatch-agent python3.11
id coattest || useradd --system --shell /sbin/nologin coattest
install -m 0644 release.env proxy.env /etc/coattest/
cat > /etc/coattest/courier.env <<COURIER
COATTEST_SPOOL=s3://$COATTEST_RESULTS/jobs/$(sed -n 's/^COATTEST_RELEASE=//p' release.env)
COATTEST_COURIER_ARGUMENTS=--enclave vsock:16:5005 --publish s3://$COATTEST_RESULTS/results/
COURIER
install -m 0644 allocator.yaml /etc/nitro_enclaves/allocator.yaml
install -m 0755 fetch-image.sh enclave.sh dead.sh /opt/coattest/
for unit in *.service *.target; do install -m 0644 "$unit" "/etc/systemd/system/$unit"; done
install -D -m 0644 closed.conf /etc/systemd/system/coattest-.service.d/closed.conf
for unit in coattest-proxy coattest-courier; do
  install -D -m 0644 parent.conf "/etc/systemd/system/$unit.service.d/parent.conf"
done
programs=$(cat programs.sha256)
aws s3api get-object --bucket "$COATTEST_ARTIFACTS" --key "programs/$programs.tar" programs.tar
echo "$programs  programs.tar" | sha256sum --check --strict
tar -xf programs.tar --no-same-owner
python3.11 -m venv /opt/coattest
/opt/coattest/bin/pip install --no-input --no-index --find-links wheels --require-hashes -r requirements.txt
agent=/opt/aws/amazon-cloudwatch-agent
install -m 0644 agent.json "$agent/etc/coattest.json"
"$agent/bin/amazon-cloudwatch-agent-ctl" -a fetch-config -m ec2 -s -c "file:$agent/etc/coattest.json"
systemctl daemon-reload
# AWS's own allocator unit is replaced by a closed one.
systemctl disable --now nitro-enclaves-allocator.service || true
systemctl enable coattest-parent.target
# Without waiting: the units' own order and failures count from here on.
systemctl start --no-block coattest-parent.target
