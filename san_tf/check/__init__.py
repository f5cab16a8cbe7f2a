"""`python -m san_tf.check`: tests how this machine can train."""
