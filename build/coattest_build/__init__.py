"""From a lock to an enclave image and its measurements. Imports nothing else of ours."""
