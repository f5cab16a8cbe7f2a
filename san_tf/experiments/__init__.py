"""One module an experiment: a recipe, its stages and `main()`; run as `python -m san_tf.experiments.NAME`."""
