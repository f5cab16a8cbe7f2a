"""Embedding in bulk: any number of photographs through an exported encoder into one table."""
