"""A member's own work: rebuild, compare with the claim, measure again, answer."""
