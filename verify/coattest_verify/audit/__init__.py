"""CloudTrail's record of a key against the decision: was every Decrypt attested, and is the record complete?

``sources`` reads events, ``digests`` shows that none is missing, ``judge`` compares them with the decision.
"""
