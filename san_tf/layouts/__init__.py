"""Finds, checks and reads a user's copies of published benchmarks, without unpacking them."""
