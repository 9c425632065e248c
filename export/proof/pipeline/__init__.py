"""Proof 4: the pixels are read as in training."""
