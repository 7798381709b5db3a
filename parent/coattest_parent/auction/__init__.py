"""The service's side of an auction: from sealed bids in S3 to a published result."""
