"""`python -m san_tf.experiments.ablation`: the paper's ablation on rendered people."""
