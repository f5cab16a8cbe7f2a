"""The state dict inside a checkpoint: trainers wrap it in dicts and in names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.tensors import PickledArray, StoredTensor

# Where trainers put it: torchreid, public SAN, fast-reid, timm, Lightning.
WRAPPERS = ("state_dict", "model", "decoder_state_dict", "state_dict_ema", "model_state_dict", "net")
# What DataParallel, DistributedDataParallel and torch.compile put before each name.
PREFIXES = ("module.", "_orig_mod.")
# Counts the batches a norm has seen; Keras keeps no such number.
UNUSED = ("num_batches_tracked",)

Tensors = dict[str, StoredTensor | PickledArray]


def find_state_dict(checkpoint: Any, path: str | Path, key: str | None = None) -> Tensors:
    """Take the state dict out of what `read_checkpoint` gave.

    Args:
        checkpoint: a state dict, or a dict that holds one under one of `WRAPPERS`, alone or beside others.
        path: of the file, for messages.
        key: take the one under this name.

    Returns:
        Parameters by name, without `module.` and its like and without counts of batches.

    Raises:
        UserError: there is none, or no such key.
    """
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise UserError(f"{path} holds a {kind}, not a state dict; save model.state_dict().")
    if key is not None:
        if not isinstance(checkpoint.get(key), dict):
            raise UserError(f"{path} has no state dict called {key!r}; it has {_names(checkpoint)}.")
        checkpoint = checkpoint[key]
    else:
        wrapped = [checkpoint.get(name) for name in WRAPPERS]
        checkpoint = next((inner for inner in wrapped if _tensors(inner)), checkpoint)
    tensors = _tensors(checkpoint)
    if not tensors:
        raise UserError(f"{path} holds no state dict; it has {_names(checkpoint)}.")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not name.endswith(UNUSED)}


def _tensors(value: Any) -> Tensors:
    """Those of a dict's entries that are tensors; none of what is not a dict."""
    if not isinstance(value, dict):
        return {}
    return {
        name: tensor
        for name, tensor in value.items()
        if isinstance(name, str) and isinstance(tensor, StoredTensor | PickledArray)
    }


def _names(checkpoint: dict[Any, Any]) -> str:
    names = ", ".join(str(name)[:40] for name in list(checkpoint)[:8]) or "nothing"
    return names + (", ..." if len(checkpoint) > 8 else "")


def read_state_dict(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the state dict of a checkpoint file into arrays, as PyTorch names and shapes them.

    Args:
        path: see `read_checkpoint`.
        key: see `find_state_dict`.

    Returns:
        Arrays by name, bfloat16 as float32. Names of one storage share its memory, as in PyTorch.

    Raises:
        UserError: see `read_checkpoint` and `find_state_dict`.

    Example:
        >>> weights = read_state_dict("resnet50-19c8e357.pth")
        >>> weights["conv1.weight"].shape
        (64, 3, 7, 7)
    """
    tensors = find_state_dict(read_checkpoint(path), path, key)
    return {name: tensor.array() for name, tensor in tensors.items()}
