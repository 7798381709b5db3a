"""Deployment that starts from the decision and ends in a verified live document."""
