"""Reads the files PyTorch writes, without PyTorch and without running anything of theirs."""

from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.state_dict import find_state_dict, read_state_dict

__all__ = ["find_state_dict", "read_checkpoint", "read_state_dict"]
