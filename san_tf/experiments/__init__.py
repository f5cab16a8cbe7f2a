"""Experiments, one per module with recipe, stages and `main`: `python -m san_tf.experiments.NAME`."""
