"""Training runs on disk: record, state, lock, metrics and curves."""
