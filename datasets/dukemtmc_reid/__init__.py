"""The `dukemtmc_reid` data set."""
