"""Where and with whom a training computes: device and settings, processes, progress."""
