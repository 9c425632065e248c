"""How far an output may be from PyTorch's after all layers before it, as a share of its largest value."""

LAYER_LIMITS = {"float32": 1e-4, "float16": 0.02, "int8": 0.25}
