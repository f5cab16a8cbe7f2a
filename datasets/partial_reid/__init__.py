"""The `partial_reid` data set."""
