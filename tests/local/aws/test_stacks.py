"""CloudFormation at the local services: change sets by name and id, and what is refused in a template."""

from __future__ import annotations

import json
from typing import Any

import botocore.exceptions
import pytest

from coattest_local.aws import services

BUCKET = {"Type": "AWS::S3::Bucket"}


@pytest.fixture(scope="module")
def stacks(running: services.Services) -> Any:
    """buyer-2's administrator at CloudFormation."""
    return running.client("cloudformation", "buyer-2")


def create(stacks: Any, name: str, template: dict[str, Any], change_set: str = "first") -> str:
    """A change set that makes a stack; its id."""
    made = stacks.create_change_set(
        StackName=name, ChangeSetName=change_set, ChangeSetType="CREATE", TemplateBody=json.dumps(template)
    )
    return str(made["Id"])


def refusal(operation: Any, **arguments: Any) -> str:
    """The code and the message with which an operation is refused."""
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        operation(**arguments)
    error = refused.value.response["Error"]
    return f"{error['Code']}: {error['Message']}"


def test_a_change_set_is_executed_by_its_id(stacks: Any, running: services.Services) -> None:
    """As `aws cloudformation deploy` does; the unnamed bucket of the template is there, and is listed."""
    identifier = create(stacks, "by-id", {"Resources": {"Bucket": BUCKET}})
    stacks.execute_change_set(ChangeSetName=identifier)
    (resource,) = stacks.describe_stack_resources(StackName="by-id")["StackResources"]
    assert running.client("s3", "buyer-2").head_bucket(Bucket=resource["PhysicalResourceId"])
    states = {each["StackName"]: each["StackStatus"] for each in stacks.list_stacks()["StackSummaries"]}
    assert states["by-id"] == "CREATE_COMPLETE"


def test_change_sets_of_one_name_belong_to_their_stacks(stacks: Any) -> None:
    """Two stacks with a change set of the same name: each execution makes its own."""
    for name in ("one", "two"):
        create(stacks, name, {"Resources": {"Bucket": BUCKET}, "Outputs": {"Out": {"Value": name}}})
    stacks.execute_change_set(ChangeSetName="first", StackName="one")
    assert stacks.describe_stacks(StackName="two")["Stacks"][0]["StackStatus"] == "REVIEW_IN_PROGRESS"
    (one,) = stacks.describe_stacks(StackName="one")["Stacks"]
    assert [each["OutputValue"] for each in one["Outputs"]] == ["one"]
    stacks.execute_change_set(ChangeSetName="first", StackName="two")
    assert stacks.describe_stacks(StackName="two")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"


def test_a_stack_that_was_never_made_is_made_once(stacks: Any) -> None:
    """A second change set for it takes the first one's place."""
    create(stacks, "twice", {"Resources": {"Bucket": BUCKET}})
    second = create(stacks, "twice", {"Resources": {"Bucket": BUCKET}}, "second")
    stacks.execute_change_set(ChangeSetName=second)
    names = [each["StackName"] for each in stacks.list_stacks()["StackSummaries"]]
    assert names.count("twice") == 1


@pytest.mark.parametrize("operation", ["describe_change_set", "execute_change_set"])
def test_a_change_set_that_is_not_there_is_not_found(stacks: Any, operation: str) -> None:
    """It is no fault of the simulator."""
    said = refusal(getattr(stacks, operation), ChangeSetName="none", StackName="by-id")
    assert said == "ChangeSetNotFound: ChangeSet [none] does not exist"
    assert stacks.delete_change_set(ChangeSetName="none", StackName="by-id")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{}", "At least one Resources member"),
        ("[]", "At least one Resources member"),
        ("Resources: [", "YAML not well-formed"),
        ("Resources: {A: !!python/object/apply:os.getcwd []}", "YAML not well-formed"),
        ("Resources: {A: {}}", "must contain a Type member"),
        ("Resources: {A: {Type: 'AWS::Nope::Thing'}}", "AWS::Nope::Thing is not emulated"),
        ("Resources: {A: {Type: 'AWS::IAM::Role'}}", "Property AssumeRolePolicyDocument cannot be empty"),
        ("Resources: {A: {Type: 'AWS::S3::Bucket', Properties: null}}", "'null' values are not allowed"),
        (
            "Resources: {A: {Type: 'AWS::S3::Bucket', Properties: {BucketName: !Ref B}}}",
            "Unresolved resource dependencies [B]",
        ),
        (
            "Resources: {A: {Type: 'AWS::S3::Bucket', Properties: {BucketName: !GetAtt B.Arn}}}",
            "Unresolved resource dependencies [B]",
        ),
    ],
)
def test_a_template_that_makes_no_stack_is_refused(stacks: Any, body: str, says: str) -> None:
    """By ValidateTemplate and by CreateChangeSet alike, and nothing is left of it."""
    said = refusal(stacks.validate_template, TemplateBody=body)
    assert said.startswith("ValidationError: ")
    assert says in said
    arguments = {"StackName": "refused", "ChangeSetName": "first", "ChangeSetType": "CREATE"}
    assert refusal(stacks.create_change_set, TemplateBody=body, **arguments) == said
    assert "refused" not in [each["StackName"] for each in stacks.list_stacks()["StackSummaries"]]


def test_a_parameter_needs_a_value(stacks: Any) -> None:
    """ValidateTemplate lists them; a change set without one is refused, with one it is taken."""
    template = {
        "Parameters": {"Name": {"Type": "String"}, "Other": {"Type": "String", "Default": "x"}},
        "Resources": {"Bucket": {**BUCKET, "Properties": {"BucketName": {"Ref": "Name"}}}},
    }
    shown = stacks.validate_template(TemplateBody=json.dumps(template))["Parameters"]
    assert [each["ParameterKey"] for each in shown] == ["Name", "Other"]
    arguments = {"StackName": "named", "ChangeSetName": "first", "ChangeSetType": "CREATE"}
    body = json.dumps(template)
    said = refusal(stacks.create_change_set, TemplateBody=body, **arguments)
    assert said == "ValidationError: Parameters: [Name] must have values"
    given = [{"ParameterKey": "Name", "ParameterValue": "a-name-of-mine"}]
    assert stacks.create_change_set(TemplateBody=body, Parameters=given, **arguments)["Id"]


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("continue_update_rollback", {}),
        ("detect_stack_drift", {}),
        ("signal_resource", {"LogicalResourceId": "Group", "UniqueId": "i-1", "Status": "SUCCESS"}),
    ],
)
def test_a_stack_that_is_not_there_does_not_exist(stacks: Any, operation: str, more: dict[str, str]) -> None:
    """What moto's CloudFormation has no operation for says it as the rest does."""
    said = refusal(getattr(stacks, operation), StackName="none", **more)
    assert said == "ValidationError: Stack with id none does not exist"


def test_what_is_not_emulated_says_so_and_what_to_use(stacks: Any, running: services.Services) -> None:
    """An operation, a service and a kind of key, each in the form that its client reads."""
    said = refusal(stacks.create_stack, StackName="a", TemplateBody="{}")
    assert said == (
        "InvalidAction: cloudformation:CreateStack is not emulated (use `aws cloudformation deploy`)"
    )
    for service, operation in (
        ("cloudtrail", "lookup_events"),
        ("lambda", "list_functions"),
        ("sns", "list_topics"),
    ):
        called = getattr(running.client(service, "buyer-2"), operation)
        assert refusal(called) == f"UnknownService: {service} is not emulated"
    kms = running.client("kms", "buyer-2")
    said = refusal(kms.create_key, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    assert said == "UnsupportedOperationException: a key of spec RSA_2048 is not emulated"
