"""Training: optimisers, schedules, precision, the fit loop, checkpoints and the run directory."""
