"""The version of san_tf, in one place."""

__version__ = "1.0.0"
