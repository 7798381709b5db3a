"""One running endpoint for the tests of the local services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from coattest_local.aws import services
from support.local import kms_world as world


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Services]:
    """The local services as a process of their own."""
    with services.start(tmp_path_factory.mktemp("services"), quiet=True) as started:
        yield started


@pytest.fixture(scope="session")
def parent(running: services.Services) -> dict[str, str]:
    """A session of the service's parent role, which may decrypt as far as its own side is concerned."""
    role = world.make_role(running, "service", "parent", may=world.may("kms:*", "s3:*"))
    assert role == world.PARENT
    return world.assume(running, "service", role)


@pytest.fixture(scope="session")
def enclave() -> world.Enclave:
    """The decided enclave."""
    return world.Enclave(world.PCRS)


@pytest.fixture(scope="session")
def buyer(running: services.Services) -> Any:
    """buyer-1's admin at KMS."""
    return running.client("kms", "buyer-1")


@pytest.fixture
def key(buyer: Any, parent: dict[str, str]) -> str:
    """A key of buyer-1 that the parent's role may decrypt with from the decided enclave, for one auction."""
    condition = world.attested(world.PCRS) | {
        "StringEquals": {f"kms:EncryptionContext:{name}": value for name, value in world.CONTEXT.items()},
        "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": list(world.CONTEXT)},
    }
    policy = world.policy(
        world.administer("222233334444"),
        world.allow("arn:aws:iam::222233334444:user/admin", ["kms:Encrypt", "kms:GenerateDataKey"]),
        world.allow(world.PARENT, "kms:Decrypt", condition),
    )
    arn = buyer.create_key(Policy=policy)["KeyMetadata"]["Arn"]
    assert isinstance(arn, str)
    return arn
