"""The enclave program as a process: real sockets, real TLS; only the NSM's signature is missing."""

from __future__ import annotations

from coattest_enclave import messages, wire
from support.fake_nsm import fields_of
from support.running_enclave import Auction, Enclave


def test_the_demo_auction_ends_with_its_winners_and_a_receipt(
    enclave: Enclave, demo_auction: Auction
) -> None:
    """Three lots go to buyer-2, buyer-1 and a tie, and the receipt binds the result to the seal."""
    answer = enclave.open(demo_auction)
    assert answer.type == "result", answer
    result = messages.Result.decode(answer.body["result"])
    outcomes = [outcome for _, outcome in result.lots]
    assert outcomes == [
        messages.Won("buyer-2"),
        messages.Won("buyer-1"),
        messages.Tie(("buyer-1", "buyer-2")),
    ]
    assert (result.manifest, result.seal) == (demo_auction.manifest.digest, demo_auction.seal.digest)
    receipt = fields_of(answer.body["receipt"])
    assert receipt["user_data"] == messages.receipt_user_data(answer.body["result"])
    assert receipt["nonce"] == demo_auction.seal.digest
    assert receipt["public_key"] is None


def test_liveness(enclave: Enclave) -> None:
    """A liveness document carries the asker's nonce under its own purpose and no public key."""
    (answer,) = enclave.converse([wire.Frame(1, "alive", {"nonce": b"n" * 16})])
    fields = fields_of(answer.body["document"])
    assert (fields["nonce"], fields["public_key"]) == (b"n" * 16, None)
    assert fields["user_data"] == messages.alive_user_data()
