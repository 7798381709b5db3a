"""The log of a quorum: Merkle tree, checkpoints with cosignatures, and what the entries say."""
