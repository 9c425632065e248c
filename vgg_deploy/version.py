"""The version of this package. Modules inside import it from here, never from the package's face."""

__version__ = "0.1.0"
