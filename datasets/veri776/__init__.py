"""The `veri776` data set."""
