"""The `pit` data set."""
