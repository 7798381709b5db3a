"""How a parent reaches its enclave, KMS and S3, and how a service reports and stops."""
