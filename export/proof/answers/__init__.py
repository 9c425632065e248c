"""Proof 3: what the precision costs end to end."""
