"""Tensor edges: named one-way paths for tensors, with a sending and a receiving end."""
