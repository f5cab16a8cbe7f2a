"""The `cuhk03` data set."""
