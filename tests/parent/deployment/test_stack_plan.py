"""What deployment would create: templates that cfn-lint accepts, rights that name what they are for."""

from __future__ import annotations

import dataclasses
import email
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest_parent.deployment.stack import planning, templates
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.units import ATTENDED, COURIER, PROXY, units
from coattest_parent.deployment.stack.userdata import boot_script
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.generate import generate_policy
from coattest_verify.keypolicy.report import check_report, sign_report
from support.build.images import plain
from support.parent.deployments import ACCOUNTS, SETTINGS, Release, now
from support.raises import raises_code
from support.verify.members import Members

PROGRAMS = "ab" * 32
VARIANTS = {
    "plain": SETTINGS,
    "all": dataclasses.replace(SETTINGS, auto_recovery=True, programs=PROGRAMS),
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


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_cfn_lint_finds_nothing_in_any_template(release: Release, tmp_path: Path, variant: str) -> None:
    """Both phases and the buyer's stack, in the regions they are for."""
    settings = VARIANTS[variant]
    texts = {
        "base.json": templates.template_text(templates.base_template(settings)),
        "main.json": templates.template_text(templates.main_template(settings)),
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
    """No Allow has an action with a star; one has every resource: the agent's, whose actions know none."""
    key = json.loads(buyers_stack(release))["Resources"].pop("CoattestKey")
    buyer = json.loads(buyers_stack(release))
    del buyer["Resources"]["CoattestKey"]
    everything = [templates.base_template(SETTINGS), templates.main_template(SETTINGS), buyer]
    allowed = [item for item in statements(everything) if item["Effect"] == "Allow"]
    assert len(allowed) == 9
    assert not [item for item in allowed if "*" in json.dumps(item["Action"])]
    open_ones = [item for item in allowed if item.get("Resource") == "*"]
    assert [item["Sid"] for item in open_ones] == ["Agent"]
    assert "ec2:SourceInstanceARN" in open_ones[0]["Condition"]["ArnLike"]
    # In a key policy "*" is the key itself (KMS Developer Guide, "Resource element").
    in_key = [item for item in statements(key) if item["Effect"] == "Allow"]
    assert in_key
    assert not [item for item in in_key if "*" in json.dumps(item["Action"])]
    assert not [item for item in in_key if "*" in json.dumps(item["Principal"])]


def test_the_parents_services_run_closed_and_the_courier_waits_for_a_verified_enclave() -> None:
    """Both packaged units are installed under their own user; without programs there is nothing to start."""
    found = units(VARIANTS["all"])
    assert not {PROXY, COURIER} & set(units(SETTINGS))
    for name, verb in ((PROXY, "proxy"), (COURIER, "serve")):
        assert f"ExecStart=/opt/coattest/bin/auction {verb} " in found[name]
        assert "User=coattest\n" in found[name]
        assert "CapabilityBoundingSet=\n" in found[name]
    assert f"ConditionPathExists={ATTENDED}\n" in found[COURIER]
    assert " --enclave $COATTEST_ENCLAVE $COATTEST_COURIER_ARGUMENTS " in found[COURIER]
    text = boot_script(VARIANTS["all"])
    assert f"systemctl enable --now {PROXY}" in text
    assert f"systemctl enable --now {COURIER}" not in text
    assert PROXY not in boot_script(SETTINGS)


def test_the_parent_is_closed(release: Release) -> None:
    """Enclaves on, IMDSv2 only, an encrypted disk, nothing inbound, 443 outbound."""
    resources = templates.main_template(SETTINGS)["Resources"]
    instance = resources["Parent"]["Properties"]
    assert instance["EnclaveOptions"] == {"Enabled": True}
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert instance["MetadataOptions"]["InstanceMetadataTags"] == "disabled"
    assert instance["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    assert resources["Parent"]["DependsOn"] == ["Carry"]
    group = resources["Closed"]["Properties"]
    assert "SecurityGroupIngress" not in group
    assert [(rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupEgress"]] == [(443, 443)]
    assert "KeyName" not in instance


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


def test_the_instances_start_runs_again_after_a_change(tmp_path: Path) -> None:
    """cloud-init is told to run it at every boot: CloudFormation restarts the same instance for new user
    data."""
    text = templates.main_template(VARIANTS["all"])["Resources"]["Parent"]["Properties"]["UserData"]
    message = email.message_from_string(text["Fn::Base64"]["Fn::Sub"])
    config, script = message.get_payload()
    assert [part.get_content_type() for part in (config, script)] == [
        "text/cloud-config",
        "text/x-shellscript",
    ]
    assert config.get_payload().splitlines() == [
        "#cloud-config",
        "cloud_final_modules:",
        "  - [scripts-user, always]",
    ]
    assert script.get_payload().rstrip("\n") == boot_script(VARIANTS["all"]).rstrip("\n")
    lines = boot_script(VARIANTS["all"]).splitlines()
    # What runs already gets the programs that were just installed.
    assert lines.index(f"systemctl try-restart {PROXY} {COURIER}") > lines.index("systemctl daemon-reload")
    path = tmp_path / "user-data.sh"
    path.write_text("\n".join(lines))
    assert subprocess.run(["bash", "-n", str(path)], check=False, timeout=60).returncode == 0


def test_the_role_may_compare_what_it_finds_at_a_results_place() -> None:
    """A start after a result was put finds the object, and reads it: a right of its own on results only."""
    (store,) = [
        item for item in statements(templates.base_template(SETTINGS)) if item.get("Sid") == "StoreResults"
    ]
    assert store["Action"] == ["s3:GetObject", "s3:PutObject"]
    assert store["Resource"] == {"Fn::Sub": "${Results.Arn}/results/*"}


def test_the_role_decrypts_with_the_reported_keys_only_and_never_without_an_attestation(
    release: Release,
) -> None:
    """The role's side of the cross-account rights comes from the reports."""
    settings = VARIANTS["all"]
    plan = planning.make_stack_plan(release.authority, release.image, settings, both(release))
    given = templates.main_parameters(settings, plan.reports, planning.FROM_PHASE_1)
    assert given["BuyerKeys"].split(",") == [report.kms for report in plan.reports]
    assert given["BidObjects"].split(",") == [
        "arn:aws:s3:::bids-of-buyer-1/bids/*",
        "arn:aws:s3:::bids-of-buyer-2/bids/*",
    ]
    assert given["BuyerAccounts"] == ",".join(ACCOUNTS.values())
    assert given["KmsRegions"] == "eu-central-1"
    (decrypt,) = [
        item
        for item in statements(templates.main_template(settings))
        if item.get("Action") == ["kms:Decrypt"]
    ]
    assert decrypt["Resource"] == {"Ref": "BuyerKeys"}
    (fetch,) = [
        item for item in statements(templates.main_template(settings)) if item.get("Sid") == "FetchBids"
    ]
    assert fetch["Condition"] == {"StringEquals": {"aws:ResourceAccount": {"Ref": "BuyerAccounts"}}}
    for name in ("BuyerAccounts", "BuyerKeys", "BidObjects"):
        pattern = templates.main_template(settings)["Parameters"][name]["AllowedPattern"]
        assert all(re.fullmatch(pattern, item) for item in given[name].split(","))
        for wide in (
            "*",
            "arn:aws:s3:::*",
            "arn:aws:kms:eu-central-1:222233334444:key/*",
            "arn:aws:s3:::a/b",
        ):
            assert not re.fullmatch(pattern, wide)
    # The same document with its parameters in is what drift detection is compared with.
    (attached,) = templates.attached(given)
    resolved = [(item["Resource"], item["Action"]) for item in attached["PolicyDocument"]["Statement"]]
    assert resolved == [
        ([report.kms for report in plan.reports], ["kms:Decrypt"]),
        (given["BidObjects"].split(","), ["s3:GetObject"]),
    ]
    assert attached["PolicyName"] == "parent-carry"
    assert templates.attached({}) == []
    assert decrypt["Condition"] == {"Null": {"kms:RecipientAttestation:ImageSha384": "false"}}


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
    assert planning.MAIN in one
    alone = planning.make_stack_plan(release.authority, release.image, SETTINGS, {})
    assert planning.MAIN not in planning.plan_files(alone, {})
    assert alone.summary()["phase"] == 1


def test_the_units_never_name_debug_mode() -> None:
    """No unit, and not the user data, has the flag that turns attestation into zeros."""
    for text in [*units(VARIANTS["all"]).values(), boot_script(VARIANTS["all"])]:
        assert "debug" not in text


def test_user_data_knows_no_release(release: Release) -> None:
    """A change of user data restarts the instance: no release, image or decision is in it."""
    text = boot_script(VARIANTS["all"])
    decision = release.authority.decision
    for word in (decision.image_sha384, decision.digest.hex()[:16]):
        assert word not in text
    assert PROGRAMS in text


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
        ("instance_type", "t3.micro"),
        ("instance_type", "c6g.2xlarge"),
        ("vpc", "vpc-1;rm"),
        ("ami", "ami-latest"),
        ("account", "1234"),
        ("memory", 64),
        ("cpus", 3),
        ("programs", "../x.tar"),
    ],
)
def test_settings_have_a_form(name: str, value: Any) -> None:
    """What goes into templates and scripts is checked before; Arm and too small instances are refused."""
    with pytest.raises(UsageError):
        dataclasses.replace(SETTINGS, **{name: value})


def test_settings_come_back_from_their_file() -> None:
    """The plan's folder has every setting, and nothing else is taken."""
    value = json.loads(json.dumps(VARIANTS["all"].to_json()))
    assert Settings.from_json(value, "settings.json") == VARIANTS["all"]
    with pytest.raises(UsageError):
        Settings.from_json({**value, "image": "x"}, "settings.json")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units_and_they_are_not_exposed(tmp_path: Path, record_property: Any) -> None:
    """systemd-analyze security, offline, finds at most 3 of 10 for each unit."""
    for name, text in units(VARIANTS["all"]).items():
        path = tmp_path / name.replace("@", "@release")
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
