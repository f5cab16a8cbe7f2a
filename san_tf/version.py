"""The version of san_tf, in one place."""

__version__ = "0.1.0"
