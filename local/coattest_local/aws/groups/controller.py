"""What watches Auto Scaling's groups: instances are pending, then boot; what does not run is replaced.

moto keeps the groups. Its instances serve at once, whatever their template says, and one that is stopped by
hand goes unnoticed. Source: Amazon EC2 Auto Scaling User Guide, "Instance lifecycle", "Health checks".
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from moto.autoscaling import urls as autoscaling_urls
from moto.autoscaling.models import Activity, FakeAutoScalingGroup, autoscaling_backends
from moto.autoscaling.responses import AutoScalingResponse
from moto.cloudformation.exceptions import ValidationError
from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from coattest_local.aws.accounts import PARTITION, Arrival, Credential, caller_of
from coattest_local.aws.faults import Faults
from coattest_local.aws.groups.machine import PretendedInstance
from coattest_local.aws.http import HttpRequest, HttpResponse, ServiceError
from coattest_local.aws.stacks.creation import overdue

TICK_SECONDS = 0.2
JOIN_SECONDS = 30.0

Handler = Callable[[HttpRequest, Any], HttpResponse]


class Groups:
    """The controller. ``start`` runs it in a thread until ``stop``, which ends every enclave."""

    def __init__(
        self, folder: Path, s3: Handler, lock: threading.RLock, clock: Callable[[], datetime], faults: Faults
    ) -> None:
        """``folder`` has the instances' folders; ``lock`` guards moto."""
        self._folder, self._s3, self._lock = folder.resolve(), s3, lock
        self._clock, self._faults = clock, faults
        self._machines: dict[str, tuple[PretendedInstance, threading.Thread]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="groups", daemon=True)
        extend_groups(faults)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch and every enclave."""
        self._stopped.set()
        self._thread.join(JOIN_SECONDS)
        for machine, _ in self._machines.values():
            machine.gone.set()
        for _, thread in self._machines.values():
            thread.join(JOIN_SECONDS)

    def _watch(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            with self._lock:
                self.tick()

    def tick(self) -> None:
        """One look at every stack and every group."""
        overdue(self._clock())
        there: set[str] = set()
        for account, region, group in list(_groups()):
            for state in list(group.instance_states):
                if state.instance.state not in ("pending", "running"):
                    self._terminate(account, region, state.instance_id)
                elif state.instance_id not in self._machines and state.lifecycle_state == "Pending":
                    self._boot(account, region, group, state)
            missing = int(group.desired_capacity or 0) - len(group.instance_states)
            if missing > 0:
                group.replace_autoscaling_group_instances(missing, group.get_propagated_tags())
            there |= {state.instance_id for state in group.instance_states}
        for name, (machine, _) in self._machines.items():
            if name not in there:
                machine.gone.set()

    def _boot(self, account: str, region: str, group: Any, state: Any) -> None:
        """It runs from now on; what user data does comes after that."""
        data = group.ec2_launch_template.get_version(group.launch_template_version).data
        arn = data["IamInstanceProfile"]["Arn"]
        profiles = iam_backends[account][PARTITION].instance_profiles.values()
        (role,) = next(each for each in profiles if each.arn == arn).roles
        kind = INSTANCE_TYPES[data["InstanceType"]]
        name = str(state.instance_id)
        machine = PretendedInstance(
            id=name,
            stack=group.name,
            role_arn=role.arn,
            user_data=group.user_data.decode() if group.user_data else "",
            enclaves=str(data.get("EnclaveOptions", {}).get("Enabled")).lower() == "true",
            cpus=kind["VCpuInfo"]["DefaultVCpus"],
            memory=kind["MemoryInfo"]["SizeInMiB"],
            folder=self._folder / name,
            ask_s3=functools.partial(self._ask_s3, (account, region), (name, role.arn)),
            faults=self._faults,
            power_off=functools.partial(self._terminate, account, region, name),
        )
        thread = threading.Thread(target=machine.run, name=name, daemon=True)
        self._machines[name] = (machine, thread)
        state.lifecycle_state = "InService"
        thread.start()

    def _terminate(self, account: str, region: str, instance: str) -> None:
        """Its launch template says that powering off terminates it; the group makes another."""
        with self._lock:
            ec2_backends[account][region].terminate_instances([instance])
            autoscaling_backends[account][region].notify_terminate_instances([instance])

    def _ask_s3(
        self, where: tuple[str, str], who: tuple[str, str], method: str, place: str, body: bytes = b""
    ) -> bytes:
        """S3's answer for ``/BUCKET/KEY``, with the credentials that the instance's profile gives. Raises
        OSError.
        """
        account, region = where
        with self._lock:
            session = sts_backends[account][PARTITION].assume_role(region, *who, "", 3600, "")
            credential = Credential(session.access_key_id, "", None, None, account, None, session)
            caller = caller_of(credential, Arrival(region, "127.0.0.1", self._clock()))
            headers = {"host": "localhost", "content-length": str(len(body))}
            asked = HttpRequest(method, place, "", headers, body, "127.0.0.1")
            try:
                answer = self._s3(asked, caller)
            except ServiceError as error:
                raise OSError(f"s3:/{place}: {error}") from None
        if answer.status != 200:
            raise OSError(f"s3:/{place}: {answer.status}")
        return answer.body


def _groups() -> Iterator[tuple[str, str, Any]]:
    for account, regions in list(autoscaling_backends.items()):
        for region, backend in list(regions.items()):
            for group in list(backend.autoscaling_groups.values()):
                yield account, region, group


def extend_groups(faults: Faults) -> None:
    """Teach moto's Auto Scaling what it lacks: instances that are pending first, activities, a capacity that
    changes in place, and launches that EC2 refuses.
    """

    def replace(self: Any, count: int, tags: dict[str, str]) -> None:
        if (refused := faults.no_capacity(self.name)) is not None:
            _add_activity(self, "Launching a new EC2 instance", "Failed", refused)
            return
        before = list(self.instance_states)
        _LAUNCH(self, count, tags)
        for state in self.instance_states:
            if state not in before:
                state.lifecycle_state = "Pending"
                _add_activity(self, f"Launching a new EC2 instance: {state.instance_id}", "Successful", "")

    moto_group: Any = FakeAutoScalingGroup
    moto_group.active_instances = lambda group: list(group.instance_states)
    moto_group.replace_autoscaling_group_instances = replace
    moto_group.update_from_cloudformation_json = staticmethod(_update)
    autoscaling_urls.url_paths["{0}/$"] = AutoScaling.dispatch


_LAUNCH = FakeAutoScalingGroup.replace_autoscaling_group_instances


def _update(original_resource: Any, cloudformation_json: Any, **_: Any) -> Any:
    """An update of a group: its sizes only, which needs no new instances (CloudFormation,
    AWS::AutoScaling::AutoScalingGroup, "Update requires: No interruption").
    """
    properties = cloudformation_json["Properties"]
    original_resource.min_size = int(properties["MinSize"])
    original_resource.max_size = int(properties["MaxSize"])
    original_resource.set_desired_capacity(int(properties["DesiredCapacity"]))
    return original_resource


def _add_activity(group: Any, description: str, status: str, message: str) -> None:
    """Note what the group did; the same refusal again is one activity, as AWS backs off between its tries."""
    kept = _activities(group)
    if not kept or (kept[0].description, kept[0].status_message) != (description, message):
        activity: Any = Activity(description, "capacity", group, status_code=status)
        activity.status_message = message
        kept.insert(0, activity)


def _activities(group: Any) -> list[Any]:
    """The group's activities, newest first."""
    found: list[Any] = group.__dict__.setdefault("coattest_activities", [])
    return found


class AutoScaling(AutoScalingResponse):  # type: ignore[misc]
    """moto's Auto Scaling, which tells no activities."""

    def describe_scaling_activities(self) -> Any:
        """Those of a group. Raises moto's ValidationError."""
        name = self._get_param("AutoScalingGroupName")
        group = self.autoscaling_backend.autoscaling_groups.get(name)
        if group is None:
            raise ValidationError(message=f"AutoScalingGroup name not found - {name}")
        return ActionResult({"Activities": _activities(group)})
