"""What happens around the training steps, one callback a file; `san_tf.training.loop` puts them together."""
