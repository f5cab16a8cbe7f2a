"""The `msmt17` data set."""
