"""Training runs on disk: state, lock, figures and logs."""
