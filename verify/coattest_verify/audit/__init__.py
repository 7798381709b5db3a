"""CloudTrail's record of a key against the decision: was every Decrypt attested, and is the record complete?

``sources`` reads files, ``records`` finds the records in them, ``events`` says which are of the key,
``collect`` keeps those, ``digests`` shows that none is missing, ``judge`` compares them with the decision,
``verdict`` says what it comes to.
"""
