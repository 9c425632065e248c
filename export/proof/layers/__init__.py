"""Proof 2: the runtime computes each layer as the file says."""
