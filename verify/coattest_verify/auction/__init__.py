"""The buyer's side of an auction: bids, seals, certificates, receipts.

In the order of an auction: ``buyers`` (auction keys, buyers' records, the manifest) and ``certify``;
``bids``; ``sealing`` with its durable ``journal``; ``receipt``, shown by ``outcomes`` and ``page``.
"""
