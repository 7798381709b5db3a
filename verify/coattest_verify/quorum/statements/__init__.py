"""What a member says about a rebuild, and the claim that it is about."""
