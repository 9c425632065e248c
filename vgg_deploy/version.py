"""The version of this package. Our modules import it from here, never from `vgg_deploy/__init__.py`."""

__version__ = "0.1.0"
