"""Finds the state dict inside a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.tensors import PickledArray, StoredTensor

# Keys under which torchreid, public SAN, fast-reid, timm and Lightning store it.
WRAPPERS = ("state_dict", "model", "decoder_state_dict", "state_dict_ema", "model_state_dict", "net")
# Prefixes that DataParallel, DistributedDataParallel and torch.compile add to each name.
PREFIXES = ("module.", "_orig_mod.")
# Number of batches that a normalisation layer has seen; Keras does not store it.
UNUSED = ("num_batches_tracked",)

Tensors = dict[str, StoredTensor | PickledArray]


def find_state_dict(checkpoint: Any, path: str | Path, key: str | None = None) -> Tensors:
    """Return the state dict of a checkpoint from `read_checkpoint`.

    Args:
        checkpoint: a state dict, or a dict that holds one under a key of `WRAPPERS`.
        path: path of the file, for messages.
        key: key of the state dict; None for the first key of `WRAPPERS` that has one.

    Returns:
        Parameters by name, without the `PREFIXES` and without counts of batches.

    Raises:
        UserError: there is no state dict, or none under `key`.
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
    """The entries of a dict that are tensors; empty if `value` is not a dict."""
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
    """Read the state dict of a checkpoint file into arrays.

    Args:
        path: see `read_checkpoint`.
        key: see `find_state_dict`.

    Returns:
        Arrays with PyTorch's names and shapes, bfloat16 as float32. Arrays of one storage share its memory,
        as in PyTorch.

    Raises:
        UserError: see `read_checkpoint` and `find_state_dict`.

    Example:
        >>> weights = read_state_dict("resnet50-19c8e357.pth")
        >>> weights["conv1.weight"].shape
        (64, 3, 7, 7)
    """
    tensors = find_state_dict(read_checkpoint(path), path, key)
    return {name: tensor.array() for name, tensor in tensors.items()}
