"""The live policy of the buyer's own key, looked at before anything is encrypted, where it can be read."""

from __future__ import annotations

from coattest.aws import AwsFailure, aws_errors
from coattest.findings import Finding
from coattest_enclave.protocol.binding import IMAGE, SEAL_KEY
from coattest_parent.link.aws import Aws, region_of
from coattest_verify.auction import messages
from coattest_verify.auction.certify import Own
from coattest_verify.keypolicy.iam import parse_policy
from coattest_verify.keypolicy.iam.model import PolicyError
from coattest_verify.keypolicy.leaks import CODE, policy_leaks
from coattest_verify.quorum.decision import Decision

DENIED = frozenset({"AccessDenied", "AccessDeniedException"})
"""Codes with which AWS says that a bidder may not read the policy, which it need not."""


def live_key_findings(
    aws: Aws, manifest: messages.Manifest, own: Own, decision: Decision
) -> tuple[Finding, ...] | None:
    """What the policy of ``own``'s key leaves open beside the decided enclave under this buyer's own seal;
    None when these credentials may not read it.

    Raises AwsFailure when KMS is not reached.
    """
    try:
        with aws_errors(own.kms):
            text = aws.kms(region_of(own.kms)).get_key_policy(KeyId=own.kms, PolicyName="default")["Policy"]
    except AwsFailure as error:
        if error.service_code in DENIED:
            return None
        raise
    try:
        policy = parse_policy(text)
    except PolicyError as error:
        return (Finding(CODE, f"key {own.kms}", f"its policy cannot be judged: {error.what}"),)
    image = bytes.fromhex(decision.pcrs[0])
    bound = messages.Binding(manifest.digest, own.name, own.seal_key, image, own.kms)
    return policy_leaks(
        policy,
        own.kms,
        pcrs=decision.pcrs,
        context=bound.context,
        foreign={
            "another seal key": {**bound.context, SEAL_KEY: "00" * 32},
            "another image's name": {**bound.context, IMAGE: "00" * 48},
            "another buyer's name": messages.Binding(
                manifest.digest, f"not-{own.name}"[:64], own.seal_key, image, own.kms
            ).context,
        },
    )
