"""Keys and signatures: whose key it is, and DSSE envelopes."""
