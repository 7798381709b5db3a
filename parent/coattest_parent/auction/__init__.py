"""The service's side of an auction: from sealed bids in S3 to a published result.

``objects`` puts what is never replaced. ``finish`` opens one auction, from where an earlier call stopped;
``spool`` does so for a folder of them.
"""
