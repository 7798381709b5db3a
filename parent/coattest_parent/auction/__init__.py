"""The service's side of an auction: from sealed bids in S3 to a published result.

``finish`` opens one auction, step by step and again where it stopped; ``spool`` does it for a folder of them.
"""
