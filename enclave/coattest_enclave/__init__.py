"""The payload and everything that runs inside the enclave. Imports nothing else of ours."""
