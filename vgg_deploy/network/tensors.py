"""Types and names of the tensors that go into a network and come out of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]  # [n, height, width, 3] or [height, width, 3], RGB
Floats = npt.NDArray[np.float32]

# Names of the graph's outputs.
PROBABILITIES, SCORE_MAP, FEATURES = "probabilities", "score_map", "features"
ACTIVATION = "activation/"  # stands before a layer's name: an output that gives the activation of that layer
