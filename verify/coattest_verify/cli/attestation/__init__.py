"""``verify attestation``: documents one by one, and folders of them."""
