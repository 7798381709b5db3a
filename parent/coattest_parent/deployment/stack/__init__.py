"""Deployment to AWS: pure plans, templates and units, and the boto3 shell that creates and removes stacks."""
