"""What CloudFormation refuses in a template, before moto makes anything of it.

Sources: CloudFormation User Guide, "Template anatomy", "Resources", "Ref"; API Reference, "CreateChangeSet",
"ValidateTemplate". The texts are those of CloudFormation's own answers, as users report them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import yaml
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.utils import yaml_tag_constructor

REQUIRED = {
    "AWS::AutoScaling::AutoScalingGroup": ("MaxSize", "MinSize"),
    "AWS::CloudWatch::Alarm": ("ComparisonOperator", "EvaluationPeriods"),
    "AWS::EC2::LaunchTemplate": ("LaunchTemplateData",),
    "AWS::EC2::SecurityGroup": ("GroupDescription",),
    "AWS::IAM::InstanceProfile": ("Roles",),
    "AWS::IAM::Policy": ("PolicyDocument", "PolicyName"),
    "AWS::IAM::Role": ("AssumeRolePolicyDocument",),
    "AWS::KMS::Key": ("KeyPolicy",),
    "AWS::Logs::LogGroup": (),
    "AWS::Logs::MetricFilter": ("FilterPattern", "LogGroupName", "MetricTransformations"),
    "AWS::S3::Bucket": (),
    "AWS::S3::BucketPolicy": ("Bucket", "PolicyDocument"),
    "AWS::SNS::Topic": (),
}
"""The types of resources that are emulated, and the properties that each must have.

AWS::KMS::Key without KeyPolicy gets a default in AWS; here it is refused.
"""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with CloudFormation's short forms, and no other tags."""


_Loader.add_multi_constructor("!", lambda loader, name, node: yaml_tag_constructor(loader, f"!{name}", node))


def check_template(text: str) -> dict[str, Any]:
    """A template's text, read and checked. Raises moto's ValidationError."""
    try:
        template: dict[str, Any] = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _malformed(f"YAML not well-formed. ({' '.join(str(error).split())})") from None
    resources = template.get("Resources") if isinstance(template, dict) else None
    if not isinstance(resources, dict) or not resources:
        raise _malformed("At least one Resources member must be defined.")
    for name, resource in resources.items():
        _check_resource(name, resource)
    known = {*resources, *parameters_of(template)}
    lost = sorted({name for name in _references(resources) if name not in known})
    if lost:
        raise _malformed(
            f"Unresolved resource dependencies [{', '.join(lost)}] in the Resources block of the template"
        )
    return template


def check_values(template: Mapping[str, Any], given: Set[str]) -> None:
    """Raise ValidationError where a parameter of the template gets no value."""
    every = parameters_of(template).items()
    lacking = [name for name, parameter in every if name not in given and "Default" not in parameter]
    if lacking:
        raise ValidationError(message=f"Parameters: [{', '.join(lacking)}] must have values")


def parameters_of(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The template's parameters by name."""
    found = template.get("Parameters") or {}
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise _malformed("every Parameters object must contain a Type member.")
    return found


def _check_resource(name: str, resource: Any) -> None:
    if not isinstance(resource, dict) or not isinstance(resource.get("Type"), str):
        raise _malformed(f"[/Resources/{name}] every Resources object must contain a Type member.")
    kind, properties = resource["Type"], resource.get("Properties", {})
    if kind not in REQUIRED:
        raise ValidationError(message=f"{kind} is not emulated (resource {name})")
    if not isinstance(properties, dict):
        raise _malformed(f"[/Resources/{name}/Properties] 'null' values are not allowed in templates")
    for lacking in (each for each in REQUIRED[kind] if each not in properties):
        raise ValidationError(message=f"Property {lacking} cannot be empty (resource {name})")


def _references(value: Any) -> Iterator[str]:
    """The names that Ref and Fn::GetAtt name, below ``value``, without pseudo parameters."""
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "Ref" and isinstance(each, str):
                named = each
            elif key == "Fn::GetAtt" and each:
                named = str(each[0] if isinstance(each, list) else each).partition(".")[0]
            else:
                yield from _references(each)
                continue
            if not named.startswith("AWS::"):
                yield named


def _malformed(what: str) -> Any:
    return ValidationError(message=f"Template format error: {what}")
