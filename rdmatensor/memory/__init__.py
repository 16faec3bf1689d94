"""Local and remote memory: regions, ranges and tensors in them, and memory that the caller brings."""
