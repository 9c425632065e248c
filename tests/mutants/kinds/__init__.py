"""The kinds of damage. Importing a module of this package enters its damages into `tests.mutants.damage.DAMAGES`."""

from tests.mutants.kinds import layers, manifest, outputs, pixels, scales, weights

# The damages of runtimes that are tried where all would take too long.
SHORT = (
    "mean + 1",
    "mean + 3",
    "mean + 5",
    "conv1_1 reads BGR",
    "two classes exchanged",
    "one bias raised by five times the layer's largest",
    "8 units of fc6 zeroed",
    "one weight of conv1_1 negated",
    "the highest bit of the mantissa of one weight",
    "a filter zeroed",
    "two filters exchanged",
    "kernels transposed",
    "fc6 folded from rows, columns, channels",
    "weights of two layers of one shape exchanged",
    "no relu3_2",
    "average pooling",
    "padding on one side",
    "LRN with alpha divided by 5",
    "mean behind the soft-max",
    "soft-max at temperature 2",
    "scale of an input x 0.25",
    "scale of an input x 0.9",
    "scales of weights x 1.1",
    "scale of one filter x 0.9",
    "zero point of an input + 1",
    "scales of two inputs exchanged",
    "an INT8 layer without Q/DQ on its input",
    "a layer in another type",
)

# Damages that change no answer: nothing that computes may find them.
HARMLESS = ("an Identity inserted", "a node renamed", "a constant that nothing reads", "made by another tool")

__all__ = ["HARMLESS", "SHORT", "layers", "manifest", "outputs", "pixels", "scales", "weights"]
