"""`python -m san_tf.check`: what this machine trains with."""
