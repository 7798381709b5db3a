"""``verify fleet``."""
