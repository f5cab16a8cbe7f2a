"""The `custom` data set."""
