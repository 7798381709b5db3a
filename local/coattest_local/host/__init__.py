"""A software Nitro host: it measures and runs an image (``enclave.run_enclave``) beside a simulated NSM."""
