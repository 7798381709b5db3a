"""The parent instance: courier of an auction, proxy to KMS, deployment. Trusted with availability only.

``auction`` carries bids and results, ``deployment`` starts the decided enclave and verifies its live
document, ``link`` reaches the enclave and AWS, ``cli`` has the commands.
"""
