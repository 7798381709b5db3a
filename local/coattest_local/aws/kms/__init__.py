"""A KMS that releases a key to an attested enclave only."""
