"""Training by the paper's recipe. Needs torch."""
