"""Deployment to AWS: what is created (pure), and the thin boto3 shell that creates and removes it."""
