"""Error rates, parity between engines, cached posteriors and the paper's tables."""
