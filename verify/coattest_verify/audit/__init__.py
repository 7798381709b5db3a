"""What CloudTrail says of a key against what was decided: every Decrypt attested, by whom, and nothing
missing.
"""
