"""``verify members``: init, enroll, countersign, show."""
