"""PyTorch networks with the names of torchvision's ResNets and of the public SAN decoder, for comparison.

torchvision cannot be had for every PyTorch, and the decoder's code is in no package, so both are written out
here, from the published architecture. torchreid and fast-reid are taken from their own source.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn3(self.conv3(y)) + shortcut)


class TorchvisionResNet(nn.Module):
    """Parameters named as torchvision's; `forward` gives pooled feature, logits and the four stages."""

    def __init__(self, depths, num_classes=1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for block in range(depth):
                blocks.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        stages = []
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            stages.append(x)
        feature = x.mean((2, 3))
        return feature, self.fc(feature), stages


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return functional.relu(x + self.res(x))


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.res = Residual(inputs)
        self.conv = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.ReflectionPad2d(1),
            nn.Conv2d(inputs, outputs, 3),
        )

    def forward(self, x):
        return self.conv(self.res(x))


class SANDecoder(nn.Module):
    """Parameters named as the public SAN decoder's; checked against `official_forward.npz` as Keras's is."""

    def __init__(self):
        super().__init__()

        def embed(inputs, outputs):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())

        self.embed_layer3, self.embed_layer2 = embed(1024, 512), embed(512, 256)
        self.embed_layer1, self.reduce_dim = embed(256, 64), embed(2048, 512)
        self.up1, self.up2, self.up3, self.up4 = Up(512, 256), Up(256, 64), Up(64, 32), Up(32, 16)
        self.final_layer = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(16, 3, 7))

    def forward(self, stages):
        up1 = self.up1(self.reduce_dim(stages[3]) + self.embed_layer3(stages[2]))
        up2 = self.up2(up1 + self.embed_layer2(stages[1]))
        up3 = self.up3(up2 + self.embed_layer1(stages[0]))
        up4 = self.up4(up3)
        painted = self.final_layer(up4)
        size = (painted.shape[2], painted.shape[2])
        texture = functional.interpolate(painted, size, mode="bilinear", align_corners=True)
        return texture, [up1, up2, up3, up4]


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics under which signals neither die nor explode, in inference mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.5 + 0.1 * noise if name == "weight" else 0.1 * noise)
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(1 + 0.2 * torch.rand(module.running_var.shape, generator=generator))
            module.num_batches_tracked.fill_(7)
    return model.eval()


def from_source(folder: str, relative: str):
    """A module of a peer's checkout by its file, without the peer's own package around it."""
    path = Path(folder) / relative
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
