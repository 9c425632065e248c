"""The four proofs of an exported file: the file, its layers, its answers, and the pipeline around it."""
