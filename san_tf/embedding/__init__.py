"""Bulk embedding: photographs and tracks through an exported encoder into a feature table."""
