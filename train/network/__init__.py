"""The network in PyTorch, and checkpoints of any origin."""
