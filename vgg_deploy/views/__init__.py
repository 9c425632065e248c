"""Pixels: decoding, rescaling, crops and test protocols."""
