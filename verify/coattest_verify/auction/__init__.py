"""The buyer's side of an auction: bids, seals, certificates, receipts.

``messages`` has what all of them read and write. In the order of an auction: ``buyers`` (auction keys,
buyers' records, the manifest) and ``certify``; ``checks``, before anything that binds; ``bids`` and their
``place``; ``sealing`` with its durable ``journal``; ``receipt``, shown by ``outcomes`` and ``page``.
``withdrawal`` takes a certificate back.
"""
