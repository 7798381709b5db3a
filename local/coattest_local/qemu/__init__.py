"""The image in QEMU's nitro-enclave machine."""
