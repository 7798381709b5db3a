"""What CloudWatch watches in the base stack: lines of the parents' logs, and silence. Pure.

An alarm says that somebody should look. Which enclaves are the decided ones, ``status`` and ``verify fleet``
say. Sources: CloudWatch Logs User Guide, "Filter pattern syntax for metric filters"; CloudWatch User Guide,
"Configuring how CloudWatch alarms treat missing data"; S3 User Guide, "CloudWatch metrics configurations".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coattest_parent.deployment.stack.settings import Settings

TOPIC = "Alarms"
"""Logical name of the SNS topic that every alarm tells."""

LIVE = "live/"
"""Prefix of the instances' documents in the bucket of results, and the id of its request metrics."""

PERIOD_SECONDS = 300


@dataclass(frozen=True, slots=True)
class WatchedLog:
    """Lines of a log group (``parent`` or ``boot``) that match ``pattern``: an alarm where ``statistic`` of
    ``value`` (one for each line, or a JSON field of it) reaches ``threshold`` within five minutes.
    """

    name: str
    group: str
    pattern: str
    says: str
    value: str = "1"
    statistic: str = "Sum"
    threshold: int = 1
    missing: str = "notBreaching"

    def resources(self, settings: Settings) -> dict[str, Any]:
        """The metric filter and its alarm, by logical name."""
        metric = {"Namespace": f"coattest/{settings.name}", "MetricName": self.name}
        transformation = {"MetricNamespace": metric["Namespace"], "MetricName": self.name}
        return {
            f"{self.name}Lines": {
                "Type": "AWS::Logs::MetricFilter",
                "Properties": {
                    "LogGroupName": {"Ref": f"Logs{self.group.capitalize()}"},
                    "FilterPattern": self.pattern,
                    "MetricTransformations": [{**transformation, "MetricValue": self.value}],
                },
            },
            f"{self.name}Alarm": _alarm(
                settings,
                self.says,
                {**metric, "Statistic": self.statistic, "TreatMissingData": self.missing},
                ("GreaterThanOrEqualToThreshold", self.threshold),
            ),
        }


LOGS = (
    WatchedLog("Dead", "parent", '"the enclave stays dead"', "a parent without an enclave ends"),
    WatchedLog(
        "OtherImage",
        "parent",
        '?"nitro-cli measured another" ?"is not the decided one"',
        "an image is not the decided one, and was not started",
    ),
    WatchedLog("BootFailed", "boot", '"coattest: the boot failed"', "an instance's first boot failed"),
    WatchedLog("JobFailed", "parent", '{ $.event = "job-failed" }', "an auction needs somebody to look"),
)
"""dead.sh, enclave.sh, fetch-image.sh and first-boot.sh write these lines, and the courier its events."""


def alarm_resources(settings: Settings, *, serving: bool) -> dict[str, Any]:
    """The topic and the alarms, by logical name; ``serving`` is whether there are parents to be heard from.

    The bucket ``Results`` needs the request metrics of ``LIVE``.
    """
    found: dict[str, Any] = {
        TOPIC: {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": f"coattest-{settings.name}"}}
    }
    for watched in LOGS:
        found |= watched.resources(settings)
    if serving:
        dimensions = {"BucketName": {"Ref": "Results"}, "FilterId": LIVE.rstrip("/")}
        metric = {
            "Namespace": "AWS/S3",
            "MetricName": "PutRequests",
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Statistic": "Sum",
            "TreatMissingData": "breaching",
        }
        says = "no parent puts its enclave's document"
        found["SilentAlarm"] = _alarm(settings, says, metric, ("LessThanThreshold", 1))
    return found


def request_metrics() -> list[dict[str, str]]:
    """MetricsConfigurations of the bucket of results: requests below ``LIVE`` are counted."""
    return [{"Id": LIVE.rstrip("/"), "Prefix": LIVE}]


def _alarm(
    settings: Settings, says: str, metric: Mapping[str, Any], reached: tuple[str, int]
) -> dict[str, Any]:
    operator, threshold = reached
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmDescription": f"coattest {settings.name}: {says}",
            "AlarmActions": [{"Ref": TOPIC}],
            **metric,
            "ComparisonOperator": operator,
            "Threshold": threshold,
            "Period": PERIOD_SECONDS,
            "EvaluationPeriods": 1,
        },
    }
