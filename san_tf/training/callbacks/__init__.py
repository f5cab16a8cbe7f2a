"""Callbacks of training, one per file; `san_tf.training.loop` puts them together."""
