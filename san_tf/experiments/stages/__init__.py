"""Stages of an experiment, one per file with a function `run(experiment)`."""
