"""The four proofs of an exported file: it is what its source says; its runtime computes it; what it costs; the pipeline."""
