"""The log of a quorum: Merkle tree, checkpoints, and reading it."""
