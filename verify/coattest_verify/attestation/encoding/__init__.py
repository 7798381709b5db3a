"""From bytes to fields: CBOR, COSE_Sign1, DER, X.509 and the payload of an attestation document."""
