"""The services that a deployment asks, and what watches its groups.

moto's models of them take seconds to import and 100 MB, so the gate imports this at the first request to one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from moto.autoscaling import urls as autoscaling_urls
from moto.cloudformation import urls as cloudformation_urls

from coattest_local.aws.faults import Faults
from coattest_local.aws.groups.controller import AutoScaling, Groups, Handler
from coattest_local.aws.http import Forward
from coattest_local.aws.stacks.cloudformation import CloudFormation
from coattest_local.aws.stacks.service import ACTIONS, DeploymentService


class Deployment:
    """``handlers`` by service; ``groups`` is watched from now on, until its ``stop``."""

    def __init__(
        self,
        *,
        forward: Forward,
        s3: Handler,
        lock: threading.RLock,
        clock: Callable[[], datetime],
        instances: Path,
        faults: Faults,
    ) -> None:
        """``lock`` guards moto; ``instances`` has the folders of the pretended instances."""
        CloudFormation.faults, CloudFormation.clock = faults, staticmethod(clock)
        cloudformation_urls.url_paths["{0}/$"] = CloudFormation.dispatch
        autoscaling_urls.url_paths["{0}/$"] = AutoScaling.dispatch
        self.handlers = {name: DeploymentService(name, forward, clock).handle for name in ACTIONS}
        self.groups = Groups(instances, s3, lock, clock, faults)
        self.groups.start()
