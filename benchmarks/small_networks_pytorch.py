"""PyTorch contestants of `small_networks.py`: networks that a CPU can train, with the same layers as ours.

`thin_resnet`, `efficientnet_lite0` and OSNet with the head `bnneck` and, if asked, the light decoder;
identity and triplet loss, with the decoder also L_Rec and L_TR; one backward pass and one Adam. Each layer
with weights carries the name of our layer, so weights can be copied and values compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from training_step_pytorch import batch_hard, texture_triplets

LIGHT_WIDTHS = (64, 32, 16, 8, 8)
OSNET_CHANNELS = {
    "osnet_x0_25": (16, 64, 96, 128), "osnet_x0_5": (32, 128, 192, 256), "osnet_x0_75": (48, 192, 288, 384),
    "osnet_x1_0": (64, 256, 384, 512),
}  # fmt: skip
# Blocks, kernel, stride, expansion, channels of each group of EfficientNet-Lite0; the last stride is 1 here.
LITE_GROUPS = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 1, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
LITE_STAGES = (1, 2, 4)
Maps = list[Tensor]


def named(name: str, module: nn.Module) -> nn.Module:
    """Return the module with the name of our layer."""
    module.keras_name = name  # type: ignore[assignment]
    return module


def unit(
    name: str,
    channels: int,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    act: nn.Module | None = None,
    same: bool = False,
    bias: bool = False,
    epsilon: float = 1e-5,
    layer: str = "_conv",
) -> nn.Sequential:
    """Return a convolution with batch norm and activation.

    Args:
        name: prefix of our layers' names.
        channels: input channels.
        filters: output channels.
        size: side of the kernel.
        stride: stride of the convolution.
        groups: of the convolution.
        act: the activation.
        same: pad as TensorFlow's "same" does, at stride 2 more at the lower and right side.
        bias: whether the convolution has a bias.
        epsilon: of the batch norm.
        layer: end of the convolution's name.
    """
    layers: list[nn.Module] = []
    padding = size // 2
    if same and stride == 2:
        before = (size - 2) // 2
        layers.append(nn.ZeroPad2d((before, size - 2 - before) * 2))
        padding = 0
    layers.append(
        named(name + layer, nn.Conv2d(channels, filters, size, stride, padding, groups=groups, bias=bias))
    )
    layers.append(named(f"{name}_bn", nn.BatchNorm2d(filters, epsilon)))
    if act is not None:
        layers.append(act)
    return nn.Sequential(*layers)


def relu() -> nn.Module:
    """Return a ReLU that overwrites its input."""
    return nn.ReLU(inplace=True)


class ThinBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, name: str, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = unit(f"{name}_1", channels, width, 3, stride, act=relu())
        self.second = unit(f"{name}_2", width, width, 3)
        changes = stride != 1 or channels != width
        self.shortcut = unit(f"{name}_0", channels, width, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, width, h / stride, w / stride)`."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x), inplace=True)


class Thin(nn.Module):
    """`san_tf.models.resnet.thin_resnet_stages`."""

    channels = (32, 64, 128, 192)

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit("stem", 3, 32, 3, 2, act=relu())
        widths = (32, *self.channels)
        self.stages = nn.ModuleList(
            ThinBlock(f"stage{number}", widths[number - 1], widths[number], stride)
            for number, stride in enumerate((1, 2, 2, 1), start=1)
        )

    def forward(self, image: Tensor) -> Maps:
        """Images to the four stage maps."""
        x = F.max_pool2d(F.pad(self.stem(image), (0, 1, 0, 1)), 3, 2)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class LiteBlock(nn.Module):
    """Inverted residual block."""

    def __init__(
        self, name: str, channels: int, filters: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        middle = expansion * channels
        options = {"same": True, "epsilon": 1e-3}
        layers = []
        if expansion != 1:
            layers.append(unit(f"{name}_expand", channels, middle, 1, act=nn.ReLU6(inplace=True), **options))  # type: ignore[arg-type]
        layers.append(
            unit(f"{name}_depthwise", middle, middle, kernel, stride, groups=middle,
                 act=nn.ReLU6(inplace=True), **options)  # type: ignore[arg-type]
        )  # fmt: skip
        layers.append(unit(f"{name}_project", middle, filters, 1, **options))  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, filters, h / stride, w / stride)`."""
        return x + self.layers(x) if self.adds else self.layers(x)


class Lite(nn.Module):
    """`san_tf.models.efficientnet_lite.efficientnet_lite0_stages` with last stride 1."""

    channels = (24, 40, 112, 1280)

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("scale", (std * 255 / 128)[:, None, None])
        self.register_buffer("shift", ((mean * 255 - 127) / 128)[:, None, None])
        self.stem = unit("stem", 3, 32, 3, 2, act=nn.ReLU6(inplace=True), same=True, epsilon=1e-3)
        groups, channels, index = [], 32, 0
        for depth, kernel, stride, expansion, filters in LITE_GROUPS:
            blocks = []
            for block in range(depth):
                step = stride if block == 0 else 1
                blocks.append(LiteBlock(f"block{index}", channels, filters, kernel, step, expansion))
                channels, index = filters, index + 1
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.ModuleList(groups)
        self.head = unit("head", channels, 1280, 1, act=nn.ReLU6(inplace=True), epsilon=1e-3)

    def forward(self, image: Tensor) -> Maps:
        """Images to the four stage maps."""
        x = self.stem(image * self.scale + self.shift)
        maps = []
        for number, group in enumerate(self.groups):
            x = group(x)
            if number in LITE_STAGES:
                maps.append(x)
        return [*maps, self.head(x)]


class Gate(nn.Module):
    """Weight of each channel, shared by the streams of a block."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.squeeze = named(f"{name}_squeeze", nn.Conv2d(channels, channels // 16, 1))
        self.excite = named(f"{name}_excite", nn.Conv2d(channels // 16, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` of the same shape."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(pooled), inplace=True)))


class OSBlock(nn.Module):
    """Four streams of one to four light convolutions."""

    def __init__(self, name: str, channels: int, filters: int) -> None:
        super().__init__()
        middle = filters // 4
        self.shortcut = (
            unit(f"{name}_shortcut", channels, filters, 1) if channels != filters else nn.Identity()
        )
        self.reduce = unit(f"{name}_reduce", channels, middle, 1, act=relu())
        self.streams = nn.ModuleList(
            nn.Sequential(
                *(self._light(f"{name}_stream{depth}_{step}", middle) for step in range(1, depth + 1))
            )
            for depth in range(1, 5)
        )
        self.gate = Gate(f"{name}_gate", middle)
        self.expand = unit(f"{name}_expand", middle, filters, 1)

    @staticmethod
    def _light(name: str, channels: int) -> nn.Sequential:
        point = named(f"{name}_point", nn.Conv2d(channels, channels, 1, bias=False))
        return nn.Sequential(
            point, unit(name, channels, channels, 3, groups=channels, act=relu(), layer="_depth")
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, filters, h, w)`."""
        reduced = self.reduce(x)
        total = sum(self.gate(stream(reduced)) for stream in self.streams)
        return F.relu(self.shortcut(x) + self.expand(total), inplace=True)


class OSNet(nn.Module):
    """`san_tf.models.osnet.osnet_stages` with batch norms."""

    def __init__(self, name: str) -> None:
        super().__init__()
        stem, *widths = OSNET_CHANNELS[name]
        self.channels = (*widths, widths[-1])
        self.stem = unit("conv1", 3, stem, 7, 2, act=relu())
        stages, channels = [], stem
        for number, width in enumerate(widths, start=2):
            blocks = (
                OSBlock(f"conv{number}_block{block}", channels if block == 1 else width, width)
                for block in (1, 2)
            )
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.transitions = nn.ModuleList(
            nn.Sequential(unit(f"transition{number}", width, width, 1, act=relu()), nn.AvgPool2d(2))
            for number, width in zip((2, 3), widths, strict=False)
        )
        self.last = unit("conv5", channels, channels, 1, act=relu())

    def forward(self, image: Tensor) -> Maps:
        """Images to the four stage maps."""
        x = F.max_pool2d(self.stem(image), 3, 2, 1)
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            maps.append(x)
            if number < 2:
                x = self.transitions[number](x)
        return [*maps, self.last(x)]


class UpBlock(nn.Module):
    """Residual block, doubling, convolution."""

    def __init__(self, name: str, channels: int, filters: int) -> None:
        super().__init__()
        self.first = unit(f"{name}_1", channels, channels, 3, act=relu())
        self.second = unit(f"{name}_2", channels, channels, 3)
        self.convolution = named(f"{name}_conv", nn.Conv2d(channels, filters, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)` to `(B, filters, 2h, 2w)`."""
        x = F.relu(x + self.second(self.first(x)), inplace=True)
        return self.convolution(F.interpolate(x, scale_factor=2, mode="nearest"))


class LightDecoder(nn.Module):
    """`build_decoder` in its light form, which only sees stage 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = unit("reduce", channels, LIGHT_WIDTHS[0], 1, act=relu(), bias=True)
        self.blocks = nn.ModuleList(
            UpBlock(f"up{number}", *LIGHT_WIDTHS[number - 1 : number + 1]) for number in range(1, 5)
        )
        self.paint = named("final_conv", nn.Conv2d(LIGHT_WIDTHS[-1], 3, 3, padding=1))

    def forward(self, last: Tensor) -> tuple[Tensor, Maps]:
        """Stage 4 to the texture and the maps of the four blocks."""
        x, maps = self.reduce(last), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        painted = torch.tanh(self.paint(x))
        side = painted.shape[2]
        return F.interpolate(painted, (side, side), mode="bilinear", align_corners=False), maps


class Network(nn.Module):
    """Encoder with the head `bnneck`, and the decoder if asked.

    Args:
        backbone: "thin_resnet", "efficientnet_lite0" or of `OSNET_CHANNELS`.
        classes: number of identities.
        decoder: whether to paint.
    """

    def __init__(self, backbone: str, classes: int, decoder: bool) -> None:
        super().__init__()
        self.trunk: Thin | Lite | OSNet
        if backbone in OSNET_CHANNELS:
            self.trunk = OSNet(backbone)
        else:
            self.trunk = {"thin_resnet": Thin, "efficientnet_lite0": Lite}[backbone]()
        channels = self.trunk.channels[-1]
        self.neck = named("neck_bn", nn.BatchNorm1d(channels, 1e-5))
        self.classifier = named("classifier", nn.Linear(channels, classes, bias=False))
        self.decoder = LightDecoder(channels) if decoder else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Maps]:
        """`(B, 3, H, W)` to feature, embedding, logits, texture and the decoder's maps."""
        last = self.trunk(image)[-1]
        feature = last.mean((2, 3))
        embedding = self.neck(feature)
        texture, maps = (None, []) if self.decoder is None else self.decoder(last)
        return feature, embedding, self.classifier(embedding), texture, maps


def copy_weights(network: nn.Module, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Copy the weights of our layers, by name, into a network.

    Raises:
        ValueError: the two do not have the same layers.
    """
    layers = {module.keras_name: module for module in network.modules() if hasattr(module, "keras_name")}
    if set(layers) != set(weights):
        raise ValueError(f"Layers differ: {sorted(map(str, set(layers) ^ set(weights)))}")
    with torch.no_grad():
        for name, layer in layers.items():
            arrays = [torch.from_numpy(array) for array in weights[name]]
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                targets = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                for target, array in zip(targets, arrays, strict=True):
                    target.copy_(array)
                continue
            kernel = arrays[0]
            if kernel.ndim == 2:
                kernel = kernel.T
            else:
                kernel = kernel.permute(2, 3, 0, 1) if layer.groups > 1 else kernel.permute(3, 2, 0, 1)
            layer.weight.copy_(kernel)
            if layer.bias is not None:
                layer.bias.copy_(arrays[1])


class SmallStep:
    """The training step, to be repeated on one batch.

    Args:
        backbone: see `Network`.
        batch: `image` (B, H, W, 3) and `label`, with `texture` (B, T, T, 3) also the decoder.
        classes: number of identities.
        threads: threads of PyTorch.
        channels_last: store maps as (B, H, W, C).
        compiled: compile the network with `torch.compile`.
    """

    def __init__(
        self,
        backbone: str,
        batch: Mapping[str, np.ndarray],
        classes: int,
        threads: int,
        channels_last: bool,
        compiled: bool,
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = Network(backbone, classes, "texture" in batch).to(memory_format=layout)
        self.forward = torch.compile(self.network) if compiled else self.network
        self.batch = {
            name: torch.from_numpy(batch[name]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            for name in ("image", "texture")
            if name in batch
        }
        self.label = torch.from_numpy(batch["label"]).long()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=8e-4, weight_decay=5e-4, amsgrad=True)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def __call__(self) -> float:
        """Run one step; return the sum of the losses before it."""
        feature, _, logits, texture, maps = self.forward(self.batch["image"])
        loss = F.cross_entropy(logits, self.label, label_smoothing=0.1) + batch_hard(feature, self.label)
        if texture is not None:
            loss = loss + F.l1_loss(texture, self.batch["texture"]) + texture_triplets(maps, self.label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def outputs(self, weights: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
        """Copy our weights, and return embedding and texture (channels last) in inference."""
        copy_weights(self.network, weights)
        self.network.eval()
        with torch.inference_mode():
            _, embedding, _, texture, _ = self.network(self.batch["image"])
        self.network.train()
        found = {"embedding": embedding.numpy()}
        return found if texture is None else found | {"texture": texture.permute(0, 2, 3, 1).numpy()}

    def gflop(self) -> float:
        """Return the GFLOP of one step (multiplications and additions).

        The backward pass has twice the products of the forward pass, without the gradient of the image.
        PyTorch's own count of it is wrong for convolutions in groups.
        """
        image = self.batch["image"]
        return (3 * _flop(self.network, image) - _flop(self.network.trunk.stem, image)) / 1e9

    def product_rate(self, side: int = 2048) -> float:
        """Return the GFLOP/s of a large float32 matrix product in PyTorch."""
        a, b = torch.rand(side, side), torch.rand(side, side)
        torch.mm(a, b)
        start = time.perf_counter()
        torch.mm(a, b)
        return 2e-9 * side**3 / (time.perf_counter() - start)


@torch.no_grad()
def _flop(network: nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())
