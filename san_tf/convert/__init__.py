"""Checkpoints of the field's PyTorch code to Keras weights and back."""
