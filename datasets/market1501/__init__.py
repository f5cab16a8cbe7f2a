"""The `market1501` data set."""
