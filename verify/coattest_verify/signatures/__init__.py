"""Keys and signatures: members' keys (``keys``) and DSSE envelopes (``dsse``)."""
