"""AWS's own command line against `nitro-local up --example`: what a person types first (tox -e aws-cli).

Each command works or says that it is not emulated. An internal failure is a fault of the simulator.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coattest_local.aws import services
from coattest_local.demo import cloud
from coattest_local.demo.example import make_example
from support.forked import forking
from support.only_in import only_in

only_in("aws-cli")

TEMPLATES = {
    "bucket.yaml": "Resources:\n  Bucket:\n    Type: AWS::S3::Bucket\n",
    "queue.yaml": "Resources:\n  Queue:\n    Type: AWS::SQS::Queue\n",
    "empty.yaml": "{}\n",
    "named.yaml": "Parameters:\n  Name:\n    Type: String\nResources:\n  Bucket:\n    Type: AWS::S3::Bucket\n"
    "    Properties:\n      BucketName: !Ref Name\n",
}

WORKS = """
sts get-caller-identity
sts assume-role --role-arn $PARENT_ROLE --role-session-name me --profile service
configure list
kms list-keys
kms list-aliases
kms describe-key --key-id $KMS_KEY
kms get-key-policy --key-id $KMS_KEY --policy-name default
kms create-key --description mine
kms create-alias --alias-name alias/mine --target-key-id $KMS_KEY
kms describe-key --key-id alias/mine
kms encrypt --key-id alias/mine --plaintext fileb://plain --encryption-context a=b
kms generate-data-key --key-id $KMS_KEY --key-spec AES_256
kms list-grants --key-id $KMS_KEY
kms list-resource-tags --key-id $KMS_KEY
kms tag-resource --key-id $KMS_KEY --tags TagKey=a,TagValue=b
s3 ls
s3 mb s3://a-bucket-of-mine
s3 cp plain s3://a-bucket-of-mine/plain
s3 ls s3://a-bucket-of-mine
s3 cp s3://a-bucket-of-mine/plain -
s3 sync folder s3://a-bucket-of-mine/folder
s3 rm s3://a-bucket-of-mine --recursive
s3 rb s3://a-bucket-of-mine
s3api list-buckets
s3api get-bucket-policy --bucket buyer-1-bids-$ACCOUNT
s3api put-object --bucket buyer-1-bids-$ACCOUNT --key once --body plain --if-none-match *
s3api head-object --bucket buyer-1-bids-$ACCOUNT --key once
iam list-users
iam get-user
iam list-roles
iam get-user-policy --user-name bidder --policy-name bid
cloudformation validate-template --template-body file://bucket.yaml
cloudformation deploy --stack-name mine --template-file bucket.yaml
cloudformation deploy --stack-name mine --template-file bucket.yaml --no-fail-on-empty-changeset
cloudformation deploy --stack-name named --template-file named.yaml --parameter-overrides Name=a-name-of-mine
cloudformation deploy --stack-name named --template-file named.yaml --parameter-overrides Name=another-of-mine
cloudformation list-stacks
cloudformation describe-stacks --stack-name mine
cloudformation describe-stack-events --stack-name mine
cloudformation list-stack-resources --stack-name mine
cloudformation list-change-sets --stack-name mine
cloudformation get-template --stack-name mine
cloudformation delete-stack --stack-name mine
cloudformation wait stack-delete-complete --stack-name mine
ec2 describe-vpcs
ec2 describe-subnets
ec2 describe-instances
ec2 describe-security-groups
"""
"""Commands of buyer-1's administrator that end with 0, in this order."""

NOT = "not emulated"
TOLD = {
    "kms create-key --key-spec RSA_2048 --key-usage SIGN_VERIFY": NOT,
    "kms sign --key-id $KMS_KEY --message fileb://plain --signing-algorithm RSASSA_PSS_SHA_256": NOT,
    "iam simulate-principal-policy --policy-source-arn x0123456789abcdefghi --action-names s3:Get": NOT,
    "sts get-session-token": NOT,
    "s3api get-bucket-acl --bucket buyer-1-bids-$ACCOUNT": NOT,
    "cloudformation create-stack --stack-name a --template-body file://bucket.yaml": NOT,
    "cloudformation deploy --stack-name t --template-file queue.yaml": "AWS::SQS::Queue is not emulated",
    "cloudformation deploy --stack-name e --template-file empty.yaml": "At least one Resources member",
    "cloudformation deploy --stack-name n --template-file named.yaml": "[Name] must have values",
    "cloudformation describe-stacks --stack-name none": "does not exist",
    "ec2 run-instances --image-id ami-1": NOT,
    "ssm start-session --target i-1": NOT,
    "cloudtrail lookup-events": "cloudtrail is not emulated",
    "logs describe-log-groups": "logs is not emulated",
    "lambda list-functions": "lambda is not emulated",
    "dynamodb list-tables": "dynamodb is not emulated",
    "sns list-topics": "sns is not emulated",
    "s3api put-object --bucket buyer-1-bids-$ACCOUNT --key once --if-none-match *": "PreconditionFailed",
    "kms decrypt --ciphertext-blob fileb://sealed": "InvalidCiphertextException",
    "kms put-key-policy --key-id $KMS_KEY --policy-name default --policy {}": "MalformedPolicyDocument",
}
"""Commands that do not end with 0, and what they say."""


CUSTOMIZED = ("awscli.customizations.s3.subcommands", "awscli.customizations.cloudformation.deploy")
MODELS = ("cloudformation", "ec2", "iam", "kms", "s3", "sts")
"""What most of the commands import and parse."""


class Shell:
    """buyer-1's shell, with the variables of its file; ``program`` are the words that `aws` stands for."""

    def __init__(self, folder: Path, variables: Path, program: Sequence[str]) -> None:
        self.folder, self._variables, self._program = folder, variables, program

    def aws(self, words: str, profile: str = "admin") -> subprocess.CompletedProcess[str]:
        """Run `aws WORDS`; ``*`` and braces are not the shell's."""
        script = f'. "$1"; shift; export AWS_PROFILE={profile}; set -f +B; "$@" {words}'
        done = subprocess.run(
            ["bash", "-c", script, "bash", str(self._variables), *self._program],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "AWS_PAGER": "", "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "InternalFailure" not in done.stderr, done.stderr
        assert "a fault in the simulator" not in done.stderr, done.stderr
        return done


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The example, with a few files of a person."""
    place = tmp_path_factory.mktemp("example")
    started = services.start(place / "aws", region=cloud.REGION, quiet=True)
    with started as running, forking(["awscli.clidriver", *CUSTOMIZED], MODELS) as forks:
        files = make_example(running, place, place)
        home = place / "buyer-1"
        (home / "folder").mkdir()
        for name, text in {**TEMPLATES, "folder/file": "file"}.items():
            (home / name).write_text(text)
        (home / "plain").write_text("plain")
        key = running.client("kms", "buyer-1")
        made = key.create_key()["KeyMetadata"]["Arn"]
        sealed = key.encrypt(KeyId=made, Plaintext=b"plain", EncryptionContext={"a": "b"})
        (home / "sealed").write_bytes(sealed["CiphertextBlob"])
        service = (place / "service" / "aws-credentials").read_text().replace("[default]", "[service]")
        with (home / "aws-credentials").open("a") as credentials:
            credentials.write(service)
        yield Shell(home, files["buyer-1"], forks.command("awscli.clidriver:main", "aws"))
    shutil.rmtree(place, ignore_errors=True)


def test_what_is_typed_first_works(shell: Shell) -> None:
    """In order, each with exit code 0."""
    for words in WORKS.strip().splitlines():
        done = shell.aws(words)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize("words", TOLD)
def test_what_does_not_work_says_why(shell: Shell, words: str) -> None:
    """In the CLI's own form, never as bytes of another protocol."""
    done = shell.aws(words)
    assert done.returncode != 0
    assert TOLD[words] in done.stderr
    assert "<" not in done.stderr.partition("operation")[2]


def test_plaintext_comes_back_under_its_context_only(shell: Shell) -> None:
    """What the CLI encrypted, it decrypts."""
    given = "--encryption-context a=b --query Plaintext --output text"
    done = shell.aws(f"kms decrypt --ciphertext-blob fileb://sealed {given}")
    assert done.stdout == "cGxhaW4=\n"
    done = shell.aws(f"kms decrypt --ciphertext-blob fileb://sealed {given}", profile="bidder")
    assert "AccessDeniedException" in done.stderr


def test_the_bidder_may_bid_and_nothing_else(shell: Shell) -> None:
    """Its own policies decide, and are told by name."""
    assert shell.aws("kms encrypt --key-id $KMS_KEY --plaintext fileb://plain", "bidder").returncode == 0
    put = "s3api put-object --bucket buyer-1-bids-$ACCOUNT --key bids/x --body plain"
    assert "AccessDenied" in shell.aws(put, "bidder").stderr
    assert shell.aws(f"{put} --if-none-match *", "bidder").returncode == 0
    for words in ("kms list-keys", "iam list-users", "s3 ls", "cloudformation list-stacks"):
        assert "AccessDenied" in shell.aws(words, "bidder").stderr


def test_a_stacks_outputs_are_told(shell: Shell) -> None:
    """As the deployment page reads them."""
    template = {
        "Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}},
        "Outputs": {"Name": {"Value": {"Ref": "Bucket"}}},
    }
    (shell.folder / "outputs.json").write_text(json.dumps(template))
    assert (
        shell.aws("cloudformation deploy --stack-name outputs --template-file outputs.json").returncode == 0
    )
    query = "--query \"Stacks[0].Outputs[?OutputKey=='Name'].OutputValue\" --output text"
    done = shell.aws(f"cloudformation describe-stacks --stack-name outputs {query}")
    assert done.stdout.startswith("outputs-bucket-")
