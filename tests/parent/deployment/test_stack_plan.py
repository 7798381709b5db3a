"""What deployment would create: templates that cfn-lint accepts, rights that name what they are for."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest_parent.cli.deploy.stack import require_no_other_reports
from coattest_parent.deployment.stack import configuration, planning, templates
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.link import telemetry
from coattest_parent.link.job_listing import FAILED, LEASE, RESULT
from coattest_verify.cli.report import report_command
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.generate import generate_policy
from coattest_verify.keypolicy.report import BuyerReport, check_report, sign_report
from support.build.images import plain
from support.parent.deployments import ACCOUNTS, SETTINGS, Release, now
from support.raises import raises_code
from support.verify.members import Members

PROGRAMS = "ab" * 32
VARIANTS = {
    "plain": SETTINGS,
    "all": dataclasses.replace(SETTINGS, capacity=3, programs=PROGRAMS),
    "china": dataclasses.replace(SETTINGS, region="cn-north-1"),
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A decided release whose image is small."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "image.eif").write_bytes(plain().build())
    return Release.make(folder, folder / "image.eif")


def both(release: Release, **changes: Any) -> dict[str, bytes]:
    """The reports of both buyers."""
    return {f"{name}.json": release.report(name, **changes) for name in ACCOUNTS}


DIGEST = "cd" * 32
LOGGED = ("dead.sh", "enclave.sh", "fetch-image.sh")
"""The scripts whose words go to the parents' log group."""


def reports_of(release: Release, **changes: Any) -> list[BuyerReport]:
    """What both buyers report."""
    return [check_report(each, release.authority.members) for each in both(release, **changes).values()]


def shipped(release: Release, settings: Settings) -> dict[str, str]:
    """What an instance fetches, by file name."""
    archive = configuration.configuration(settings, release.authority.decision, ["eu-central-1"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as held:
        found = {item.name: held.extractfile(item) for item in held.getmembers()}
        return {name: file.read().decode() for name, file in found.items() if file}


BIDDER = f"arn:aws:iam::{ACCOUNTS['buyer-1']}:user/bidder"


def buyers_stack(release: Release) -> str:
    """What ``verify policy make --format stack`` writes for buyer-1."""
    account = ACCOUNTS["buyer-1"]
    policy = generate_policy(
        release.authority.decision,
        account=account,
        parent_roles=[SETTINGS.role_arn],
        administrators=[f"arn:aws:iam::{account}:role/ops", f"arn:aws:iam::{account}:user/second"],
        encrypters=[BIDDER],
        now=now(),
        simulator=True,
    )
    return snippets.stack(policy, "coattest", [SETTINGS.role_arn], [BIDDER])


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_cfn_lint_finds_nothing_in_any_template(release: Release, tmp_path: Path, variant: str) -> None:
    """The base in both phases, parents and the buyer's stack, in the regions they are for."""
    settings = VARIANTS[variant]
    texts = {
        "base.json": templates.template_text(templates.base_template(settings)),
        "full.json": templates.template_text(templates.base_template(settings, reports_of(release))),
        "parents.json": templates.template_text(templates.parents_template(settings, DIGEST, "0.1.0")),
        "buyer.json": buyers_stack(release),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("cfn-lint")),
            "--regions",
            settings.region,
            "--include-checks",
            "W",
            "I",
            "--template",
            *(str(tmp_path / name) for name in texts),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def statements(value: Any) -> Iterator[dict[str, Any]]:
    """Every policy statement in a template."""
    if isinstance(value, dict):
        if "Effect" in value:
            yield value
        for each in value.values():
            yield from statements(each)
    elif isinstance(value, list):
        for each in value:
            yield from statements(each)


def test_no_right_is_a_wildcard(release: Release) -> None:
    """No Allow has an action with a star; only Session Manager's, which know none, have every resource."""
    key = json.loads(buyers_stack(release))["Resources"].pop("CoattestKey")
    buyer = json.loads(buyers_stack(release))
    del buyer["Resources"]["CoattestKey"]
    everything = [templates.base_template(SETTINGS, reports_of(release)), buyer]
    allowed = [item for item in statements(everything) if item["Effect"] == "Allow"]
    assert len(allowed) == 14
    assert not [item for item in allowed if "*" in json.dumps(item["Action"])]
    open_ones = [item for item in allowed if item.get("Resource") == "*"]
    assert [item["Sid"] for item in open_ones] == ["Agent", "AgentOfOurs"]
    # Nothing of a release has rights of its own, and none has any on CloudFormation.
    assert not list(statements(templates.parents_template(SETTINGS, DIGEST, "0.1.0")))
    assert "cloudformation" not in json.dumps(everything)
    # In a key policy "*" is the key itself (KMS Developer Guide, "Resource element").
    in_key = [item for item in statements(key) if item["Effect"] == "Allow"]
    assert in_key
    assert not [item for item in in_key if "*" in json.dumps(item["Action"])]
    assert not [item for item in in_key if "*" in json.dumps(item["Principal"])]


def test_the_parents_are_closed() -> None:
    """Enclaves on, IMDSv2 only with one hop, an encrypted disk, nothing inbound, 443 outbound, no key."""
    launch = templates.parents_template(SETTINGS, DIGEST, "0.1.0")["Resources"]["Launch"]["Properties"]
    instance = launch["LaunchTemplateData"]
    assert instance["EnclaveOptions"] == {"Enabled": True}
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert instance["MetadataOptions"]["InstanceMetadataTags"] == "disabled"
    assert instance["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    assert instance["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert "KeyName" not in instance
    group = templates.base_template(SETTINGS)["Resources"]["Closed"]["Properties"]
    assert "SecurityGroupIngress" not in group
    assert [(rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupEgress"]] == [(443, 443)]


def test_a_stack_of_parents_waits_for_every_instance_and_only_its_capacity_changes() -> None:
    """One signal for each; another release, machine image or size is another stack."""
    found = templates.parents_template(SETTINGS, DIGEST, "0.1.0")
    group = found["Resources"][templates.GROUP]
    capacity = {"Ref": "Capacity"}
    assert group["CreationPolicy"] == {"ResourceSignal": {"Count": capacity, "Timeout": "PT20M"}}
    assert set(found["Parameters"]) == {*templates.FROM_BASE, templates.CAPACITY}
    sizes = {group["Properties"][name] == capacity for name in ("MinSize", "MaxSize", "DesiredCapacity")}
    assert sizes == {True}
    assert group["Properties"]["VPCZoneIdentifier"] == list(SETTINGS.subnets)
    name = templates.parents_name(SETTINGS, templates.template_text(found))
    assert SETTINGS.parents_stacks.fullmatch(name)

    def named(digest: str = DIGEST, **changes: Any) -> str:
        settings = dataclasses.replace(SETTINGS, **changes)
        text = templates.template_text(templates.parents_template(settings, digest, "0.1.0"))
        return templates.parents_name(settings, text)

    assert named(capacity=3) == name
    others = {named("ef" * 32), named(ami="ami-0fffffffffffffff0"), named(instance_type="m5.xlarge")}
    assert len(others - {name}) == 3


def test_the_parents_services_run_closed_and_in_order(release: Release) -> None:
    """Image and allocator before the enclave; both of the package's units under their own user; whoever
    fails for good ends in a power-off."""
    found = shipped(release, VARIANTS["all"])
    for name, verb in (("coattest-proxy", "proxy"), ("coattest-courier", "serve")):
        assert f"ExecStart=/usr/bin/env auction {verb} " in found[f"{name}.service"]
        assert "User=coattest\n" in found[f"{name}.service"]
        assert "CapabilityBoundingSet=\n" in found[f"{name}.service"]
    assert "PATH=/opt/coattest/bin:/usr/bin" in found["parent.conf"]
    enclave = found["coattest-enclave.service"]
    assert "Requires=coattest-allocator.service coattest-image.service\n" in enclave
    for name in ("allocator", "image", "enclave"):
        assert "OnFailure=coattest-dead.service\n" in found[f"coattest-{name}.service"]
    assert "systemctl poweroff" in found["dead.sh"]
    wanted = found["coattest-parent.target"].split("Wants=")[1].splitlines()[0].split()
    assert {f"coattest-{name}.service" for name in ("proxy", "enclave", "live", "courier")} == set(wanted)
    assert "--every 60" in found["coattest-live.service"]
    # What a release is, and what apply cannot know before the bucket is there.
    decision = release.authority.decision
    assert f"COATTEST_IMAGE_SHA384={decision.image_sha384}\n" in found["release.env"]
    assert f"COATTEST_PCR0={decision.pcrs[0]}\n" in found["release.env"]
    assert found["programs.sha256"] == f"{PROGRAMS}\n"
    assert found["proxy.env"] == "COATTEST_PROXY_ARGUMENTS=--region eu-central-1\n"


@pytest.mark.parametrize("whose", ["service", "buyer"])
def test_every_bucket_is_private_versioned_encrypted_and_by_tls_only(release: Release, whose: str) -> None:
    """Each with a policy of its own that denies what does not come by TLS, on the bucket and its objects."""
    template = (
        templates.base_template(SETTINGS) if whose == "service" else json.loads(buyers_stack(release))
    )["Resources"]
    buckets = {name: item for name, item in template.items() if item["Type"] == "AWS::S3::Bucket"}
    assert len(buckets) == (2 if whose == "service" else 1)
    for name, bucket in buckets.items():
        found = bucket["Properties"]
        assert set(found["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(found["PublicAccessBlockConfiguration"]) == 4
        assert found["VersioningConfiguration"] == {"Status": "Enabled"}
        assert found["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        assert "BucketEncryption" in found
        (policy,) = [
            item["Properties"]["PolicyDocument"]
            for item in template.values()
            if item["Type"] == "AWS::S3::BucketPolicy" and item["Properties"]["Bucket"] == {"Ref": name}
        ]
        (deny,) = [item for item in policy["Statement"] if item["Sid"] == "DenyWithoutTls"]
        denied = {item["Sid"] for item in policy["Statement"] if item["Effect"] == "Deny"}
        assert denied - {"DenyWithoutTls"} == (
            set() if whose == "service" else {"DenyOverwriting", "DenyDeleting"}
        )
        assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert (deny["Action"], deny["Principal"]) == ("s3:*", {"AWS": "*"})
        assert deny["Resource"] == [{"Fn::GetAtt": [name, "Arn"]}, {"Fn::Sub": f"${{{name}.Arn}}/*"}]
        allowed = [item for item in policy["Statement"] if item["Effect"] == "Allow"]
        assert [(item["Principal"], item["Action"]) for item in allowed] == (
            []
            if whose == "service"
            else [({"AWS": [SETTINGS.role_arn]}, "s3:GetObject"), ({"AWS": [BIDDER]}, "s3:PutObject")]
        )


def test_only_ec2_takes_the_role_and_every_log_has_an_end() -> None:
    """The trust policy names one service and nothing else; log groups keep a year."""
    resources = templates.base_template(SETTINGS)["Resources"]
    (trust,) = resources["ParentRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {
        "Effect": "Allow",
        "Principal": {"Service": "ec2.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    groups = [item for item in resources.values() if item["Type"] == "AWS::Logs::LogGroup"]
    assert [item["Properties"]["RetentionInDays"] for item in groups] == [365, 365]
    (logs,) = [item for item in statements(resources) if item.get("Sid") == "WriteLogs"]
    assert all(
        "${AWS::AccountId}:log-group:/coattest/spring/" in each["Fn::Sub"] for each in logs["Resource"]
    )


def test_every_alarm_hears_what_the_scripts_say_and_tells_the_topic(release: Release) -> None:
    """Each pattern's words are in a script, in its log group's; silence counts once there are parents."""
    scripts = configuration.instance_files()
    said = {"LogsBoot": scripts["first-boot.sh"], "LogsParent": "".join(scripts[each] for each in LOGGED)}
    reports = reports_of(release)
    before, after = (templates.base_template(SETTINGS, given)["Resources"] for given in ([], reports))
    filters = [each["Properties"] for each in after.values() if each["Type"] == "AWS::Logs::MetricFilter"]
    counted = {}
    for watched in filters:
        phrases = re.findall(r'"([^"]+)"', watched["FilterPattern"])
        assert phrases
        for phrase in phrases:
            assert phrase in said[watched["LogGroupName"]["Ref"]] or phrase in telemetry.EVENTS
        (metric,) = watched["MetricTransformations"]
        counted[metric["MetricNamespace"], metric["MetricName"]] = metric["MetricValue"]
    assert set(after) - set(before) == {"Carry", "SilentAlarm"}
    silent = {name: each.get("Properties", {}).get("TreatMissingData") for name, each in after.items()}
    assert {name for name in silent if silent[name] == "breaching"} == {"SilentAlarm", "JobsWaitAlarm"}
    assert before["JobsWaitAlarm"]["Properties"]["TreatMissingData"] == "notBreaching"
    (wait,) = (each for each in counted.values() if each != "1")
    assert wait.removeprefix("$.") in telemetry.FIELDS
    found = [each["Properties"] for each in after.values() if each["Type"] == "AWS::CloudWatch::Alarm"]
    # Every filter's metric has its alarm; the last one is on the puts of documents.
    assert {(each["Namespace"], each["MetricName"]) for each in found} == {
        *counted,
        ("AWS/S3", "PutRequests"),
    }
    assert len(found) == len(filters) + 1 == 6
    assert all(each["AlarmActions"] == [{"Ref": "Alarms"}] for each in found)
    assert after["Alarms"]["Type"] == "AWS::SNS::Topic"
    bucket = templates.base_template(SETTINGS)["Resources"]["Results"]["Properties"]
    assert bucket["MetricsConfigurations"] == [{"Id": "live", "Prefix": "live/"}]


def test_user_data_fetches_one_archive_by_its_digest(release: Release) -> None:
    """It has the place and the digest, and nothing of a release; what it fetches has the rest."""
    data = templates.parents_template(SETTINGS, DIGEST, "0.1.0")["Resources"]["Launch"]["Properties"]
    text = data["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert text == configuration.boot_script(DIGEST)
    head, rest = text.split("set -Eeuo pipefail", 1)
    assert head.splitlines() == [
        "#!/bin/bash",
        "COATTEST_REGION=${AWS::Region}",
        "COATTEST_STACK=${AWS::StackName}",
        "COATTEST_ARTIFACTS=${ArtifactBucket}",
        "COATTEST_RESULTS=${ResultBucket}",
        f"COATTEST_CONFIGURATION={DIGEST}",
    ]
    # CloudFormation's substitution finds nothing else.
    assert "${" not in rest
    decision = release.authority.decision
    for word in (decision.image_sha384, decision.digest.hex()[:16]):
        assert word not in text
    assert len(text) < configuration.USER_DATA_MAX


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_scripts_are_bash(release: Release, tmp_path: Path) -> None:
    """bash reads each of them, and shellcheck, where it is installed, finds nothing."""
    texts = {name: text for name, text in shipped(release, SETTINGS).items() if name.endswith(".sh")}
    texts["user-data.sh"] = re.sub(r"\$\{[A-Za-z:]+\}", "x", configuration.boot_script(DIGEST))
    for name, text in texts.items():
        path = tmp_path / name
        path.write_text(text)
        assert subprocess.run(["bash", "-n", str(path)], check=False, timeout=60).returncode == 0
        if checker := shutil.which("shellcheck"):
            done = subprocess.run(
                [checker, "-x", str(path)], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.stdout == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("broken", ["curl", "aws"])
def test_a_boot_that_fails_is_heard_of_before_any_agent_runs(tmp_path: Path, broken: str) -> None:
    """Its log goes to the bucket and to the log group, and the machine powers off, wherever it failed."""
    log = tmp_path / "cloud-init-output.log"
    log.write_text('first line\nlast "line"\n')
    stub = f"""#!/bin/sh
echo "${{0##*/}} $*" >> {tmp_path}/calls
case "${{0##*/}} $*" in
{broken}\\ *get-object*|{broken}*api/token*) exit 1 ;;
curl*instance-id) echo i-0123456789abcdef0 ;;
esac
"""
    for name in ("aws", "curl", "install", "systemd-run"):
        (tmp_path / name).write_text(stub)
        (tmp_path / name).chmod(0o755)
    text = configuration.boot_script(DIGEST).replace("${AWS::StackName}", "coattest-my-name-0123456789ab")
    text = re.sub(r"\$\{[A-Za-z:]+\}", "x", text)
    for real in ("/run", "/var/log", "/etc/coattest", "/opt/coattest/instance"):
        text = text.replace(f"{real}/place.env", f"{tmp_path}/place.env").replace(
            f"cd {real}", f"cd {tmp_path}"
        )
        text = text.replace(f"{real}/co", f"{tmp_path}/co").replace(f"{real}/cloud", f"{tmp_path}/cloud")
    (tmp_path / "user-data.sh").write_text(text)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", str(tmp_path / "user-data.sh")],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "coattest: the boot failed" in done.stdout
    calls = (tmp_path / "calls").read_text()
    instance = "unknown" if broken == "curl" else "i-0123456789abcdef0"
    assert f"--key live/coattest-my-name-0123456789ab/{instance}/failed.log" in calls
    assert (
        f"put-log-events --log-group-name /coattest/my-name/boot --log-stream-name {instance}-failed" in calls
    )
    (event,) = json.loads((tmp_path / "coattest-failed.log.json").read_text())
    assert event["message"] == log.read_text()
    assert "systemd-run --on-active=10min /usr/bin/systemctl poweroff" in calls


def test_the_role_may_compare_what_it_finds_at_a_results_place() -> None:
    """A start after a result was put finds the object, and reads it: a right of its own on results only."""
    (store,) = [
        item for item in statements(templates.base_template(SETTINGS)) if item.get("Sid") == "StoreResults"
    ]
    assert store["Action"] == ["s3:GetObject", "s3:PutObject"]
    assert store["Resource"] == {"Fn::Sub": "${Results.Arn}/results/*"}


def test_the_role_replaces_no_result() -> None:
    """Neither a job's nor a published one: a put that is not conditional is denied."""
    (never,) = [
        item
        for item in statements(templates.base_template(SETTINGS))
        if item["Effect"] == "Deny" and item.get("Sid") == "NeverReplaceResults"
    ]
    assert never["Action"] == ["s3:PutObject"]
    assert [each["Fn::Sub"] for each in never["Resource"]] == [
        "${Results.Arn}/results/*",
        "${Results.Arn}/jobs/*/result.cbor",
    ]
    assert never["Condition"] == {"Null": {"s3:if-none-match": "true"}}


def test_couriers_end_jobs_and_can_neither_make_nor_remove_one() -> None:
    """What the role may write in the spools are leases, results and failures; it lists and reads nothing else
    of that bucket, and its courier is told of the release's own spool.
    """
    found = {item.get("Sid", ""): item for item in statements(templates.base_template(SETTINGS))}
    assert found["ListJobs"]["Condition"] == {"StringLike": {"s3:prefix": "jobs/*"}}
    assert found["ReadJobs"]["Resource"] == {"Fn::Sub": "${Results.Arn}/jobs/*"}
    files = [each["Fn::Sub"].rpartition("/") for each in found["EndJobs"]["Resource"]]
    assert [place for place, _, _ in files] == ["${Results.Arn}/jobs/*"] * 3
    assert (
        {name for _, _, name in files} == {LEASE, FAILED, RESULT} == {"lease", "failed.json", "result.cbor"}
    )
    assert not any("Delete" in action for item in found.values() for action in item.get("Action", ()))
    install = configuration.instance_files()["install.sh"]
    assert f"COATTEST_SPOOL=s3://$COATTEST_RESULTS/{templates.JOBS}/$(sed -n" in install
    unit = configuration.instance_files()["coattest-courier.service"]
    assert unit.index("Environment=COATTEST_SPOOL") < unit.index("EnvironmentFile=")
    assert "--spool ${COATTEST_SPOOL} " in unit


def test_the_role_decrypts_with_the_reported_keys_only_and_never_without_an_attestation(
    release: Release,
) -> None:
    """The role's side of the cross-account rights comes from the reports, item by item."""
    found = reports_of(release)
    template = templates.base_template(SETTINGS, found)
    (decrypt,) = [item for item in statements(template) if item.get("Action") == ["kms:Decrypt"]]
    assert decrypt["Resource"] == [report.kms for report in found]
    assert decrypt["Condition"] == {"Null": {"kms:RecipientAttestation:ImageSha384": "false"}}
    (fetch,) = [item for item in statements(template) if item.get("Sid") == "FetchBids"]
    assert fetch["Resource"] == ["arn:aws:s3:::bids-of-buyer-1/bids/*", "arn:aws:s3:::bids-of-buyer-2/bids/*"]
    assert fetch["Condition"] == {"StringEquals": {"aws:ResourceAccount": sorted(ACCOUNTS.values())}}
    assert "Carry" not in templates.base_template(SETTINGS)["Resources"]


def test_more_buyers_than_iam_takes_are_no_plan(release: Release) -> None:
    """The role's inline policies have a limit, and so has the template."""
    plan = planning.make_stack_plan(release.authority, release.image, SETTINGS, both(release))
    one = plan.reports[0]
    many = tuple(
        dataclasses.replace(one, kms=f"{one.kms}{index}", bids=f"s3://bids-{index}/x/")
        for index in range(150)
    )
    planning.require_room(dataclasses.replace(plan, reports=many[:40]))
    # As IAM counts them, with buckets whose names are as long as CloudFormation makes them.
    longest = dataclasses.replace(plan, reports=many[:1])
    resources = json.loads(longest.base_text)["Resources"]
    text = json.dumps(
        [each["PolicyDocument"] for each in resources["ParentRole"]["Properties"]["Policies"]]
        + [resources["Carry"]["Properties"]["PolicyDocument"]],
        separators=(",", ":"),
    )
    bucket = f"arn:aws:s3:::{'x' * 63}"
    text = re.sub(r'\{"Fn::(?:Sub":("[^"]*")|GetAtt":[^}]*)\}', lambda found: found[1] or f'"{bucket}"', text)
    text = re.sub(r"\$\{\w+\.Arn\}", bucket, text)
    assert len(text) <= templates.inline_size(SETTINGS, longest.reports)
    with raises_code(UsageError, "too-large", match="150 buyers"):
        planning.require_room(dataclasses.replace(plan, reports=many))


def test_one_plan_has_one_text(release: Release) -> None:
    """The same inputs give the same bytes, and without reports there is no second phase."""
    reports = both(release)
    one, two = (
        planning.plan_files(
            planning.make_stack_plan(release.authority, release.image, SETTINGS, given), given
        )
        for given in (reports, dict(reversed(reports.items())))
    )
    assert one == two
    assert planning.PARENTS in one
    alone = planning.make_stack_plan(release.authority, release.image, SETTINGS, {})
    assert planning.PARENTS not in planning.plan_files(alone, {})
    assert alone.summary()["phase"] == 1


def test_nothing_on_an_instance_names_debug_mode(release: Release) -> None:
    """No unit, no script and not the user data has the flag that turns attestation into zeros."""
    for text in [*shipped(release, VARIANTS["all"]).values(), configuration.boot_script(DIGEST)]:
        assert "--debug" not in text


def test_another_image_is_no_plan(release: Release, tmp_path: Path) -> None:
    """The image is measured here, whatever it is called."""
    other = tmp_path / "image.eif"
    other.write_bytes(plain(ramdisks=(b"boot", b"other")).build())
    with pytest.raises(FoundFalse, match="PCR2") as caught:
        planning.make_stack_plan(release.authority, other, SETTINGS, {})
    assert caught.value.code == "image-differs"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"decisions": ["00" * 32]}, "policy-first", "does not admit"),
        ({"role": "arn:aws:iam::111122223333:role/other"}, "wrong-role", "admits"),
        (
            {"kms": "arn:aws-cn:kms:cn-north-1:222233334444:key/1"},
            "wrong-region",
            "partition",
        ),
    ],
)
def test_a_report_that_does_not_fit_is_no_plan(
    release: Release, change: dict[str, Any], code: str, message: str
) -> None:
    """A key that admits another release, another role, another partition: each is named."""
    reports = {"buyer-1.json": release.report("buyer-1", **change)}
    with raises_code(FoundFalse, code, match=message):
        planning.make_stack_plan(release.authority, release.image, SETTINGS, reports)


def test_two_reports_in_files_of_one_name_are_no_plan(release: Release) -> None:
    """The plan's folder would have one of them only, and ``apply`` would say for ever that it differs."""
    reports = {f"{name}/report.json": release.report(name) for name in ACCOUNTS}
    with raises_code(UsageError, "two-reports", match=r"report\.json"):
        planning.make_stack_plan(release.authority, release.image, SETTINGS, reports)


def test_reports_of_another_plan_are_neither_taken_nor_removed(tmp_path: Path) -> None:
    """They may be somebody's only copies, or lie elsewhere, behind a link."""
    place = tmp_path / "reports"
    require_no_other_reports(place, {"one.json"})
    place.mkdir()
    for name in ("one.json", "two.json"):
        (place / name).write_text("{}")
    require_no_other_reports(place, {"one.json", "two.json", "three.json"})
    with raises_code(UsageError, "not-empty", match=r"not of this plan: two\.json"):
        require_no_other_reports(place, {"one.json"})
    (tmp_path / "link").symlink_to(place)
    with raises_code(UsageError, "not-empty", match="a link"):
        require_no_other_reports(tmp_path / "link", {"one.json", "two.json"})
    assert len(list(place.iterdir())) == 2


def test_a_report_is_signed_with_its_members_own_key(release: Release, tmp_path: Path) -> None:
    """Another buyer's key is refused by the command that signs, before the service refuses the report."""
    policy, target = tmp_path / "policy.json", tmp_path / "report.json"
    images = {"kms:RecipientAttestation:ImageSha384": release.authority.decision.pcrs[0]}
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": SETTINGS.role_arn},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": images},
    }
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    key = "arn:aws:kms:eu-central-1:222233334444:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    words = ["--member", "buyer-1", "--kms-key", key, "--policy", policy, "--bids", "s3://bids/b/"]
    words += ["--parent-role", SETTINGS.role_arn, "--out", target, *release.deciding]
    for owner, code in (("buyer-2", "wrong-key"), ("buyer-1", "not-confirmed")):
        keys = ["--key", release.members.folder / "keys" / owner]
        done = CliRunner().invoke(report_command, [str(each) for each in [*keys, *words]])
        assert isinstance(done.exception, UsageError)
        assert (done.exception.code, target.exists()) == (code, False)


def test_a_report_is_its_members_own(release: Release, tmp_path: Path) -> None:
    """Another quorum's key, another buyer's key, a changed byte and trailing fields do not count."""
    policy = release.authority.members
    good = release.report("buyer-1")
    assert check_report(good, policy).member == "buyer-1"
    stranger = Members.make(tmp_path / "others")
    said = check_report(good, policy)
    for signer in (stranger.signers["buyer-1"], release.members.signers["buyer-2"]):
        with pytest.raises(Rejected, match="not signed"):
            check_report(sign_report(signer, said), policy)
    nobody = dataclasses.replace(said, member="mallory")
    with pytest.raises(Rejected, match="not a member"):
        check_report(sign_report(stranger.signers["buyer-1"], nobody), policy)
    for position in range(0, len(good), 7):
        changed = bytearray(good)
        changed[position] ^= 1
        try:
            assert check_report(bytes(changed), policy) == said
        except Rejected:
            continue


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "Spring"),
        ("region", "eu-central"),
        ("instance_type", "c6i"),
        ("instance_type", "c6i.x large"),
        ("subnets", ("subnet-0123456789abcdef0",)),
        ("subnets", ("subnet-0123456789abcdef0", "subnet-0123456789abcdef0")),
        ("subnets", ("subnet-0123456789abcdef0", "subnet-1;rm")),
        ("capacity", 0),
        ("capacity", True),
        ("vpc", "vpc-1;rm"),
        ("ami", "ami-latest"),
        ("account", "1234"),
        ("memory", 64),
        ("cpus", 3),
        ("programs", "../x.tar"),
    ],
)
def test_settings_have_a_form(name: str, value: Any) -> None:
    """What goes into templates and scripts is checked before."""
    with pytest.raises(UsageError):
        dataclasses.replace(SETTINGS, **{name: value})


def test_settings_come_back_from_their_file() -> None:
    """The plan's folder has every setting, and nothing else is taken."""
    value = json.loads(json.dumps(VARIANTS["all"].to_json()))
    assert Settings.from_json(value, "settings.json") == VARIANTS["all"]
    with pytest.raises(UsageError):
        Settings.from_json({**value, "image": "x"}, "settings.json")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units_and_they_are_not_exposed(release: Release, tmp_path: Path) -> None:
    """systemd-analyze security, offline, finds at most 3 of 10 for each unit."""
    found = shipped(release, SETTINGS)
    texts = {name: text for name, text in found.items() if name.endswith(".service")}
    assert len(texts) == 7
    assert "closed.conf /etc/systemd/system/coattest-.service.d/closed.conf\n" in found["install.sh"]
    (tmp_path / "coattest-.service.d").mkdir()
    (tmp_path / "coattest-.service.d" / "closed.conf").write_text(found["closed.conf"])
    for name, text in texts.items():
        path = tmp_path / name
        path.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        print(name, done.stdout.strip().splitlines()[-1])
        assert done.returncode == 0, done.stdout
