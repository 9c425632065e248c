"""Proof 1: the file is what its manifest and its source say."""
