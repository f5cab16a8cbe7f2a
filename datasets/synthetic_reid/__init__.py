"""The `synthetic_reid` data set."""
