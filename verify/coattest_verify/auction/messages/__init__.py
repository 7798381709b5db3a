"""The auction's messages as buyers and parent have them (docs/protocol.md).

What the enclave reads and checks lies in ``coattest_enclave.protocol``; here are these names, and what never
runs inside: ``envelopes`` (signing and encrypting), ``amounts`` and ``lots`` (columns as lists), ``outcome``
(result and result file). Every type checks its rules on construction, so a value that exists is well-formed.
``decode`` is strict and raises nothing but MessageError.
"""

from coattest_enclave.protocol.alive import PURPOSE as ALIVE
from coattest_enclave.protocol.alive import alive_user_data
from coattest_enclave.protocol.binding import BID, Binding
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import (
    AMOUNT_MAX,
    BUYERS_MAX,
    DIGEST,
    FIRST_PRICE,
    SECOND_PRICE,
    sha384,
)
from coattest_enclave.protocol.manifest import PURPOSE as MANIFEST
from coattest_enclave.protocol.manifest import Buyer, Lots, Manifest
from coattest_enclave.protocol.receipt import RESULT, receipt_user_data
from coattest_enclave.protocol.seal import PURPOSE as SEAL
from coattest_enclave.protocol.seal import Seal, bid_digest, check_seals
from coattest_verify.auction.messages.amounts import AMOUNT_SIZE, pack_bids, unpack_bids
from coattest_verify.auction.messages.envelopes import encrypt0, sign1
from coattest_verify.auction.messages.lots import Lot, LotList, make_lots, named_buyer
from coattest_verify.auction.messages.outcome import (
    DISCLOSURE,
    Outcome,
    Outcomes,
    Result,
    ResultFile,
    Tie,
    Unsold,
    Won,
)
from coattest_verify.auction.messages.outcome import FILE_PURPOSE as RESULT_FILE

__all__ = [
    "ALIVE",
    "AMOUNT_MAX",
    "AMOUNT_SIZE",
    "BID",
    "BUYERS_MAX",
    "DIGEST",
    "DISCLOSURE",
    "FIRST_PRICE",
    "MANIFEST",
    "RESULT",
    "RESULT_FILE",
    "SEAL",
    "SECOND_PRICE",
    "Binding",
    "Buyer",
    "Lot",
    "LotList",
    "Lots",
    "Manifest",
    "MessageError",
    "Outcome",
    "Outcomes",
    "Result",
    "ResultFile",
    "Seal",
    "Tie",
    "Unsold",
    "Won",
    "alive_user_data",
    "bid_digest",
    "check_seals",
    "encrypt0",
    "make_lots",
    "named_buyer",
    "pack_bids",
    "receipt_user_data",
    "sha384",
    "sign1",
    "unpack_bids",
]
