"""Encoders of `inference.py`, as files for every runtime and as PyTorch modules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

# (backbone, image size)
NETWORKS = {"resnet50": (256, 128), "thin_resnet": (128, 64)}
WEIGHTS_FILE = "weights.npz"


def prepare(network: str, folder: Path) -> None:
    """Write an encoder with random weights as SavedModels and for the other runtimes.

    Args:
        network: of `NETWORKS`; it has the head fc512 and last stride 1.
        folder: where to write `float32/1`, `float16/1` (SavedModels), `runtimes/`, and `weights.npz` for
            PyTorch.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from san_tf.models.encoder import build_encoder
    from san_tf.serving.encoder_export import export_encoder
    from san_tf.serving.runtime_sessions import SUFFIXES, WEIGHTS
    from san_tf.serving.runtimes import export_runtimes

    size = NETWORKS[network]
    encoder = build_encoder(
        network, (*size, 3), 751, head="fc512", stride_on="3x3" if network == "resnet50" else "1x1",
        weights=None, seed=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):  # instead of the initial 0 and 1
            layer.set_weights([
                rng.uniform(0.3, 1.2, variable.shape) if kind in ("gamma", "variance")
                else rng.normal(0, 0.2, variable.shape)
                for kind, variable in zip(("gamma", "beta", "mean", "variance"), layer.weights, strict=True)
            ])  # fmt: skip
        for number, value in enumerate(layer.get_weights()):
            arrays[f"{layer.name}/{number}"] = value
    np.savez(folder / WEIGHTS_FILE, **arrays)
    for weights in ("float32", "float16"):
        export_encoder(encoder, folder / weights, size, weights=weights, warmup_batches=())
    images = make_images(network, 16)
    export_runtimes(folder / "float32" / "1", folder / "runtimes", tuple(SUFFIXES), WEIGHTS, list(images))


def make_images(network: str, number: int) -> np.ndarray:
    """Return `(N, H, W, 3)` uint8 images of coarse patterns; their content does not affect the time."""
    height, width = NETWORKS[network]
    coarse = np.random.default_rng(1).integers(0, 256, (number, height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def pytorch_network(network: str, folder: Path) -> Any:
    """Return the same encoder as a PyTorch module, from uint8 `(N, H, W, 3)` to embeddings of length 1."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from training_step_pytorch import Encoder, conv_norm

    arrays = np.load(folder / WEIGHTS_FILE)

    def fill(module: Any, conv: str, norm: str) -> None:
        weights = [torch.from_numpy(arrays[f"{norm}/{number}"]) for number in range(4)]
        kernel = arrays[f"{conv}/0"]
        with torch.no_grad():
            module[0].weight.copy_(
                torch.from_numpy(kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1))
            )
            if module[0].bias is not None:
                module[0].bias.copy_(torch.from_numpy(arrays[f"{conv}/1"]))
            for own, value in zip(
                (module[1].weight, module[1].bias, module[1].running_mean, module[1].running_var),
                weights,
                strict=True,
            ):
                own.copy_(value)

    class Thin(nn.Module):
        """`san_tf.models.resnet` with its head."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_norm(3, 32, 3, 2)
            self.blocks = nn.ModuleList()
            channels = 32
            for width, stride in ((32, 1), (64, 2), (128, 2), (192, 1)):
                block = nn.ModuleDict(
                    {"1": conv_norm(channels, width, 3, stride), "2": conv_norm(width, width, 3)}
                )
                if channels != width or stride != 1:
                    block["0"] = conv_norm(channels, width, 1, stride)
                self.blocks.append(block)
                channels = width
            self.neck = nn.Sequential(nn.Linear(192, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))

        def forward(self, image: Any) -> Any:
            x = F.relu(self.stem(image), inplace=True)
            x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
            for block in self.blocks:
                y = block["2"](F.relu(block["1"](x), inplace=True))
                x = F.relu(y + (block["0"](x) if "0" in block else x), inplace=True)
            return (self.neck(x.mean((2, 3))),)

    class Served(nn.Module):
        """The network with the normalisation of a SavedModel."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("scale", 1 / (255 * torch.tensor([0.229, 0.224, 0.225])))
            self.register_buffer(
                "shift", torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
            )

        def forward(self, images: Any) -> Any:
            pixels = (images.float() * self.scale - self.shift).permute(0, 3, 1, 2)
            return F.normalize(self.inner(pixels)[0])

    inner: Any
    if network == "resnet50":
        inner = Encoder(751)
        inner.classifier = nn.Identity()  # a SavedModel has no classifier either
        fill(inner.stem, "conv1_conv", "conv1_bn")
        for stage, blocks in enumerate(inner.stages, start=2):
            for number, block in enumerate(blocks, start=1):
                parts = {1: block.reduce, 2: block.work, 3: block.expand}
                if number == 1:
                    parts[0] = block.shortcut
                for part, module in parts.items():
                    name = f"conv{stage}_block{number}_{part}"
                    fill(module, f"{name}_conv", f"{name}_bn")
    else:
        inner = Thin()
        fill(inner.stem, "stem_conv", "stem_bn")
        for stage, block in enumerate(inner.blocks, start=1):
            for part, module in block.items():
                fill(module, f"stage{stage}_{part}_conv", f"stage{stage}_{part}_bn")
    fill(inner.neck, "fc", "fc_bn")
    for module in inner.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.eps = 1e-5
    return Served(inner).eval()
