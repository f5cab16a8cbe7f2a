"""Galleries: embeddings with who, where and when, searched, filtered and kept on disk."""
