"""Speed: timing, contestants that take turns, and the peak of the machine."""
