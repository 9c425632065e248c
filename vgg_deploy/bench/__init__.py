"""Speed: turns and how they are timed, contests, and the peak of the machine."""
