"""`python -m san_tf.experiments.ablation`: the ablation of the paper on rendered people."""
