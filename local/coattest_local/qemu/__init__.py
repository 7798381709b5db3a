"""The whole image in QEMU's nitro-enclave machine, which measures it too (``enclave.run_in_qemu``)."""
