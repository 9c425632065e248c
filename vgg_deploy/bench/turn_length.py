"""How long a contestant's turn is."""

# A turn repeats its sample until this many seconds have passed, but at most so many times.
TURN_S, MOST_SAMPLES = 0.1, 20
# After another engine's turn, its threads may still spin for a moment (ONNX Runtime's do), and the caches hold its
# weights. So the first call of a turn does not count if it is shorter than this.
SETTLING_S = 0.2
