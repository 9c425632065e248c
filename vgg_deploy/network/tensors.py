"""Types and names of a network's inputs and outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]  # [n, height, width, 3] or [height, width, 3], RGB
Floats = npt.NDArray[np.float32]

# Names of the graph's outputs.
PROBABILITIES, SCORE_MAP, FEATURES = "probabilities", "score_map", "features"
ACTIVATION = "activation/"  # prefix of an output that gives a layer's activation; the layer's name follows
