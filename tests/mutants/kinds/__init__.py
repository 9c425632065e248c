"""The kinds of damage. Importing a module of this package enters its damages into `tests.mutants.damage.DAMAGES`."""

from tests.mutants.kinds import layers, manifest, outputs, pixels, scales, weights

__all__ = ["layers", "manifest", "outputs", "pixels", "scales", "weights"]
