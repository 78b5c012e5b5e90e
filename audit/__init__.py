"""The transparency log of one party: entries, their Merkle tree, signed checkpoints, verification."""
