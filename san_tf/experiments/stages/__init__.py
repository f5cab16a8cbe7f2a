"""The stages of an experiment, one file each with a function `run(experiment)`."""
