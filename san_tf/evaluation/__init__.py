"""Embedding, distances and the Market-1501 ranking protocol."""
