"""Reads PyTorch checkpoints without PyTorch and without running their code."""

from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.state_dict import find_state_dict, read_state_dict

__all__ = ["find_state_dict", "read_checkpoint", "read_state_dict"]
