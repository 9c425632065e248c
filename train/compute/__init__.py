"""How a training is executed: device and settings, processes, progress."""
