"""PyTorch contestant of `training_step.py`: SAN's training step in the order of the public code.

It is written from the paper and the behaviour of the public code, without copying its text. The network is
that of `training_step_tensorflow.py`: ResNet-50 with strides on the 3x3 convolutions and last stride 1;
linear layer, batch norm and ReLU after the pooling; a U-shaped decoder of widths 512, 256, 64, 32, 16. The
order of work is the public code's: one forward pass, a backward pass of L_ID + L_Triplet through the encoder,
another of L_Rec + L_TR through decoder and encoder, then three Adam optimisers. (The public code steps the
first optimiser between both passes. Today's PyTorch refuses this, because the second pass needs the old
weights. Here all steps come after both passes, at the same cost.)
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

WIDTHS = (512, 256, 64, 32, 16)
MARGIN = 0.3
Batch = dict[str, Tensor]


def conv_norm(channels: int, filters: int, size: int, stride: int = 1, bias: bool = False) -> nn.Sequential:
    """Return a convolution with batch norm.

    Args:
        channels: input channels.
        filters: output channels.
        size: side of the kernel.
        stride: stride of the convolution.
        bias: whether it has a bias.
    """
    convolution = nn.Conv2d(channels, filters, size, stride, size // 2, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters))


class Bottleneck(nn.Module):
    """Bottleneck block: 1x1, 3x3, 1x1 convolutions with a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.reduce = conv_norm(channels, width, 1)
        self.work = conv_norm(width, width, 3, stride)
        self.expand = conv_norm(width, 4 * width, 1)
        self.shortcut = conv_norm(channels, 4 * width, 1, stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, 4 width, h / stride, w / stride)`."""
        y = F.relu(self.reduce(x), inplace=True)
        y = F.relu(self.work(y), inplace=True)
        return F.relu(self.expand(y) + self.shortcut(x), inplace=True)


class Encoder(nn.Module):
    """Encoder: images to embedding, logits and the four stage maps."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = conv_norm(3, 64, 7, 2)
        channels, stages = 64, []
        for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 1)):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(channels, width, stride if block == 0 else 1, block == 0))
                channels = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.neck = nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(512, classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Take images `(B, 3, H, W)`."""
        x = F.max_pool2d(F.relu(self.stem(image), inplace=True), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        embedding = self.neck(x.mean((2, 3)))
        return embedding, self.classifier(embedding), maps


class UpBlock(nn.Module):
    """Residual block of two 3x3 convolutions, then doubling of the size and a third convolution."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.first, self.second = conv_norm(channels, channels, 3), conv_norm(channels, channels, 3)
        self.convolution = nn.Conv2d(channels, filters, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, filters, 2h, 2w)`."""
        y = self.second(F.relu(self.first(x), inplace=True))
        x = F.relu(x + y, inplace=True)
        return self.convolution(F.interpolate(x, scale_factor=2, mode="nearest"))


class Decoder(nn.Module):
    """Decoder: four stage maps to a texture and the maps of the four blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = conv_norm(2048, WIDTHS[0], 1, bias=True)
        self.skips = nn.ModuleList(
            conv_norm(channels, width, 1, bias=True)
            for channels, width in zip((1024, 512, 256), WIDTHS, strict=False)
        )
        self.blocks = nn.ModuleList(UpBlock(a, b) for a, b in itertools.pairwise(WIDTHS))
        self.paint = nn.Conv2d(WIDTHS[-1], 3, 7, padding=3)

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Take the maps of stages 1 to 4."""
        x = F.relu(self.reduce(stages[3]), inplace=True)
        maps = []
        for index, block in enumerate(self.blocks):
            if index < 3:
                x = x + F.relu(self.skips[index](stages[2 - index]), inplace=True)
            x = block(x)
            maps.append(x)
        painted = torch.tanh(self.paint(x))
        height = painted.shape[2]
        return F.interpolate(painted, (height, height), mode="bilinear", align_corners=False), maps


def batch_hard(embedding: Tensor, label: Tensor) -> Tensor:
    """Return L_Triplet with the hardest positive and negative of each image."""
    distances = torch.cdist(embedding[None], embedding[None])[0]
    same = label[:, None] == label[None, :]
    hardest_positive = (distances * same).max(1).values
    hardest_negative = distances.masked_fill(same, float("inf")).min(1).values
    return F.relu(hardest_positive - hardest_negative + MARGIN).mean()


def texture_triplets(maps: Iterable[Tensor], label: Tensor) -> Tensor:
    """Return L_TR: a random positive and negative for each image, in each block."""
    same = label[:, None] == label[None, :]
    partner = same & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
    total = torch.zeros((), device=label.device)
    for block in (block.float() for block in maps):
        positive = torch.multinomial(partner.float(), 1)[:, 0]
        negative = torch.multinomial((~same).float(), 1)[:, 0]
        near = (block - block[positive]).square().mean((1, 2, 3))
        far = (block - block[negative]).square().mean((1, 2, 3))
        total = total + F.relu(near - far + MARGIN).mean()
    return total


class PyTorchStep:
    """The training step, to be repeated on one batch.

    Args:
        batch: `image` (B, H, W, 3), `label`, `texture` (B, T, T, 3), as from our data pipeline.
        classes: number of training identities.
        threads: threads of PyTorch; 0 for its default.
        joint: use one backward pass of the sum and one optimiser, the same arithmetic as ours.
        channels_last: store maps as (B, H, W, C), unlike the public code.
        device: "cpu" or "cuda".
        autocast: "bfloat16" or "float16" for the networks, float32 for the losses; None for float32.
            float16 has loss scaling, and only with `joint`.
        compiled: compile both networks with `torch.compile`.
    """

    def __init__(
        self,
        batch: dict[str, np.ndarray],
        classes: int,
        threads: int,
        joint: bool,
        channels_last: bool,
        device: str = "cpu",
        autocast: str | None = None,
        compiled: bool = False,
    ) -> None:
        if autocast == "float16" and not joint:
            raise ValueError("float16 needs loss scaling, which only the joint backward pass has.")
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.encoder = Encoder(classes).to(device, memory_format=layout)
        self.decoder = Decoder().to(device, memory_format=layout)
        self._forward = [torch.compile(part) if compiled else part for part in (self.encoder, self.decoder)]
        self._device, self._autocast = device, autocast
        self._scaler = torch.amp.GradScaler(device, enabled=autocast == "float16")

        def placed(maps: np.ndarray) -> Tensor:
            return torch.from_numpy(maps).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout)

        self.batch: Batch = {
            "image": placed(batch["image"]),
            "label": torch.from_numpy(batch["label"]).long().to(device),
            "texture": placed(batch["texture"]),
        }
        encoder, decoder = list(self.encoder.parameters()), list(self.decoder.parameters())
        main = {"lr": 8e-4, "weight_decay": 5e-4, "amsgrad": True}
        slow = {"lr": 1e-5, "betas": (0.5, 0.999)}
        if joint:
            self.optimizers = [torch.optim.Adam(encoder + decoder, **main)]
        else:
            self.optimizers = [
                torch.optim.Adam(encoder, **main),
                torch.optim.Adam(encoder, **slow),
                torch.optim.Adam(decoder, **slow),
            ]
        self._backward: Callable[[Tensor, Tensor], None] = self._jointly if joint else self._one_by_one

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        parts = (self.encoder, self.decoder)
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    def __call__(self) -> float:
        """Run one step; return the sum of the losses before it."""
        label = self.batch["label"]
        encoder, decoder = self._forward
        dtype = getattr(torch, self._autocast or "bfloat16")
        with torch.autocast(self._device, dtype, enabled=self._autocast is not None):
            embedding, logits, stages = encoder(self.batch["image"])
            texture, maps = decoder(stages)
        reid = F.cross_entropy(logits.float(), label, label_smoothing=0.1)
        reid = reid + batch_hard(embedding.float(), label)
        painting = F.l1_loss(texture.float(), self.batch["texture"]) + texture_triplets(maps, label)
        self._backward(reid, painting)
        return (reid + painting).item()

    def gflop(self) -> float:
        """Return the GFLOP of one step (multiplications and additions), by PyTorch's counter."""
        with FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops() / 1e9

    def product_rate(self, side: int = 4096) -> float:
        """Return the GFLOP/s of a large float32 matrix product in PyTorch."""
        a, b = torch.rand(side, side), torch.rand(side, side)
        torch.mm(a, b)
        start = time.perf_counter()
        torch.mm(a, b)
        return 2e-9 * side**3 / (time.perf_counter() - start)

    def _jointly(self, reid: Tensor, painting: Tensor) -> None:
        self.optimizers[0].zero_grad()
        self._scaler.scale(reid + painting).backward()  # a scale of 1 but in float16
        self._scaler.step(self.optimizers[0])
        self._scaler.update()

    def _one_by_one(self, reid: Tensor, painting: Tensor) -> None:
        main, encoder, decoder = self.optimizers
        first = list(self.encoder.parameters())
        second = first + list(self.decoder.parameters())
        # The painting losses do not use the head.
        of_reid = torch.autograd.grad(reid, first, retain_graph=True)
        of_painting = torch.autograd.grad(painting, second, allow_unused=True)
        self._assign(first, of_reid)
        main.step()
        self._assign(second, of_painting)
        encoder.step()
        decoder.step()

    @staticmethod
    def _assign(parameters: list[nn.Parameter], gradients: Iterable[Tensor | None]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
