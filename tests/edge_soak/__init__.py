"""The soak of tensor edges: what both processes derive from a seed, and what each does. Run by soak_edges.py."""
