"""Checkpoints of the field's PyTorch code to Keras weights and back, read without PyTorch."""

from san_tf.convert.checkpoint import read_checkpoint
from san_tf.convert.state_dict import find_state_dict, read_state_dict

__all__ = ["find_state_dict", "read_checkpoint", "read_state_dict"]
