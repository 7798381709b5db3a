"""The parent instance: courier, proxy to KMS, deployment. Trusted with availability only."""
