"""The buyer's side of an auction: bids, seals, certificates, receipts."""
