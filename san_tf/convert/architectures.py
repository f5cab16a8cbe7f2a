"""Recognises the network of a state dict by names and shapes, with each toolkit's names of layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from san_tf.convert.weight_map import NORM, Counterpart, counterparts_of
from san_tf.errors import UserError
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.osnet import BLOCKS, OSNETS, STREAMS, norm_at
from san_tf.models.presets import PRESETS
from san_tf.models.resnet import DEPTHS
from san_tf.torch_files.state_dict import Tensors

Names = dict[str, str]


def resnet_names(backbone: str, prefix: str = "") -> Names:
    """Names of ResNet-50/101 in torchvision, torchreid, fast-reid, the public SAN and IBN-Net (IBN-a)."""
    ibn = backbone.endswith("_ibn")
    names = {"conv1_conv": f"{prefix}conv1", "conv1_bn": f"{prefix}bn1"}
    for stage, depth in enumerate(DEPTHS[backbone.removesuffix("_ibn")], start=1):
        for block in range(depth):
            keras_name, torch_name = f"conv{stage + 1}_block{block + 1}", f"{prefix}layer{stage}.{block}"
            for index in (1, 2, 3):
                names[f"{keras_name}_{index}_conv"] = f"{torch_name}.conv{index}"
                names[f"{keras_name}_{index}_bn"] = f"{torch_name}.bn{index}"
            if ibn and stage < 4:
                for norm in ("in", "bn"):
                    names[f"{keras_name}_1_{norm}"] = f"{torch_name}.bn1.{norm.upper()}"
            if block == 0:
                names[f"{keras_name}_0_conv"] = f"{torch_name}.downsample.0"
                names[f"{keras_name}_0_bn"] = f"{torch_name}.downsample.1"
    return names


def head_names(head: str, classifier: str = "classifier") -> Names:
    """Names of the head in torchreid and the public SAN; torchvision's classifier is `fc`."""
    fc = {"fc": "fc.0", "fc_bn": "fc.1"} if head == "fc512" else {}
    return fc | {"classifier": classifier}


def bnneck_names(prefix: str = "heads.") -> Names:
    """Names of fast-reid's BNNeck; its classifier is a bare parameter of the head."""
    return {"neck_bn": f"{prefix}bottleneck.0", "classifier": prefix.removesuffix(".")}


def osnet_names(backbone: str) -> Names:
    """Names of OSNet in torchreid; AIN variants have numbers where others have letters."""
    norms = OSNETS[backbone].norms
    ain = norms == "ain"
    names = {"conv1_conv": "conv1.conv", "conv1_bn" if norms == "batch" else "conv1_in": "conv1.bn"}
    for stage in (2, 3, 4):
        for block in range(1, BLOCKS + 1):
            names |= _osnet_block(f"conv{stage}_block{block}", f"conv{stage}.{block - 1}", ain)
            norm = norm_at(norms, stage, block)
            if norm != "none":
                names[f"conv{stage}_block{block}_in"] = f"conv{stage}.{block - 1}.IN"
            if norm == "residual":
                del names[f"conv{stage}_block{block}_expand_bn"]
        if stage < 4:
            torch_name = f"pool{stage}.0" if ain else f"conv{stage}.{BLOCKS}.0"
            names |= {f"transition{stage}_{part}": f"{torch_name}.{part}" for part in ("conv", "bn")}
    return names | {"conv5_conv": "conv5.conv", "conv5_bn": "conv5.bn"}


def _osnet_block(keras_name: str, torch_name: str, ain: bool) -> Names:
    names: Names = {}
    for part, torch_part in (("reduce", "conv1"), ("expand", "conv3"), ("shortcut", "downsample")):
        # Only the first block of a stage changes the channels.
        if part != "shortcut" or keras_name.endswith("block1"):
            names |= {
                f"{keras_name}_{part}_{kind}": f"{torch_name}.{torch_part}.{kind}" for kind in ("conv", "bn")
            }
    names |= {f"{keras_name}_gate_squeeze": f"{torch_name}.gate.fc1"}
    names |= {f"{keras_name}_gate_excite": f"{torch_name}.gate.fc2"}
    for depth in range(1, STREAMS + 1):
        for step in range(1, depth + 1):
            if ain:
                light = f"conv2.{depth - 1}.layers.{step - 1}"
            else:
                light = f"conv2{'abcd'[depth - 1]}" + (f".{step - 1}" if depth > 1 else "")
            for part, torch_part in (("point", "conv1"), ("depth", "conv2"), ("bn", "bn")):
                names[f"{keras_name}_stream{depth}_{step}_{part}"] = f"{torch_name}.{light}.{torch_part}"
    return names


def decoder_names() -> Names:
    """Names of the public SAN's decoder."""
    names: Names = {}
    for stage in (3, 2, 1):
        names |= {f"skip{stage}_conv": f"embed_layer{stage}.0", f"skip{stage}_bn": f"embed_layer{stage}.1"}
    names |= {"reduce_conv": "reduce_dim.0", "reduce_bn": "reduce_dim.1"}
    for block in range(1, 5):
        for index, place in ((1, 0), (2, 3)):
            names[f"up{block}_{index}_conv"] = f"up{block}.res.res.{place}"
            names[f"up{block}_{index}_bn"] = f"up{block}.res.res.{place + 1}"
        names[f"up{block}_conv"] = f"up{block}.conv.2"
    return names | {"final_conv": "final_layer.1"}


TORCHVISION_DEPTHS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}
# fast-reid stores its normalisation beside the weights: that of san_tf.normalization, for pixels in 0-255.
PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network that exists in PyTorch and in Keras.

    Args:
        title: readable name of the network.
        encoder: arguments of `build_encoder` without classes and weights; None for the decoder.
        names: PyTorch's name of each Keras layer.
        num_classes: number of classes of the classifier; 0 for the decoder.
    """

    title: str
    encoder: dict[str, Any] | None
    names: Names
    num_classes: int = 0

    def build(self, num_classes: int | None = None, seed: int | None = 0) -> keras.Model:
        """Build the Keras network, with initial weights, for images of 256x128 pixels."""
        if self.encoder is None:
            shapes = [(64, 32, 256), (32, 16, 512), (16, 8, 1024), (16, 8, 2048)]
            return build_decoder(shapes, **PRESETS["san_resnet50_official"]["decoder"])
        classes = num_classes or self.num_classes
        return build_encoder(**self.encoder, num_classes=classes, weights=None, seed=seed)

    def counterparts(self, model: keras.Model) -> list[Counterpart]:
        """Return the counterparts of a network from `build`."""
        return counterparts_of(model, self.names)

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """Names that the classifier's parameters may have in PyTorch."""
        prefix = self.names.get("classifier")
        return (f"{prefix}.weight", f"{prefix}.bias") if prefix else ()

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names that parameters behind stage 4 may have in PyTorch."""
        heads = [
            self.names[layer] for layer in ("fc", "fc_bn", "neck_bn", "classifier") if layer in self.names
        ]
        pool = [f"{self.names['pool']}.p"] if "pool" in self.names else []
        return (*pool, *(f"{prefix}.{suffix}" for prefix in heads for suffix in NORM))


DECODER = Architecture("decoder of the public SAN code", None, decoder_names())


def recognise(tensors: Tensors, path: str | Path) -> Architecture:
    """Return the architecture of a state dict.

    Args:
        tensors: from `find_state_dict`.
        path: path of the file, for messages.

    Raises:
        UserError: the network is not known here.
    """
    if "reduce_dim.0.weight" in tensors and "final_layer.1.weight" in tensors:
        return DECODER
    if "backbone.conv1.weight" in tensors:
        return _fastreid(tensors, path)
    if "conv1.conv.weight" in tensors and "conv5.conv.weight" in tensors:
        return _osnet(tensors, path)
    if "conv1.weight" in tensors and "layer4.0.conv1.weight" in tensors:
        return _resnet(tensors, path)
    first = ", ".join(list(tensors)[:4])
    raise UserError(
        f"{path} is not of a known network (it begins with {first}); known are ResNet-50/101 of torchvision, "
        "IBN-Net's, ResNet-50 and OSNet of torchreid, fast-reid's BoT ResNet-50, also with IBN-a or GeM "
        "pooling, the public SAN's encoder and decoder."
    )


def _resnet(tensors: Tensors, path: str | Path) -> Architecture:
    backbone = _backbone(tensors, path, "")
    form: dict[str, Any] = {"backbone": backbone, "stride_on": "3x3"}
    if "fc.0.weight" in tensors:
        title, head = f"{backbone}_fc512 of torchreid and the public SAN code", head_names("fc512")
        form |= {"head": "fc512", "last_stride": 1}
    elif "fc.weight" in tensors:
        origin = "IBN-Net" if backbone.endswith("_ibn") else "torchvision"
        title, head = f"{backbone} of {origin}", head_names("plain", "fc")
        form |= {"head": "plain", "last_stride": 2}
    else:
        title, head = f"{backbone} of torchreid", head_names("plain")
        form |= {"head": "plain", "last_stride": 2}
    return _encoder(title, form, resnet_names(backbone) | head, tensors, path)


def _fastreid(tensors: Tensors, path: str | Path) -> Architecture:
    backbone = _backbone(tensors, path, "backbone.")
    for name, expected in PIXELS.items():
        if name in tensors and not np.allclose(tensors.pop(name).array().ravel(), expected, rtol=1e-3):
            raise UserError(
                f"{path} was trained with another normalisation ({name}); it cannot be converted."
            )
    # Parameter names of fast-reid's first versions.
    for old, new in (("heads.classifier.weight", "heads.weight"), ("heads.bnneck.", "heads.bottleneck.")):
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[name.replace(old, new, 1)] = tensors.pop(name)
    form: dict[str, Any] = {"backbone": backbone, "head": "bnneck", "last_stride": 1, "stride_on": "3x3"}
    names = resnet_names(backbone, "backbone.") | bnneck_names()
    if "heads.pool_layer.p" in tensors:
        form["pooling"] = "gem"
        names["pool"] = "heads.pool_layer"
    return _encoder(f"BoT {backbone} of fast-reid", form | {"pool_padding": "end"}, names, tensors, path)


def _osnet(tensors: Tensors, path: str | Path) -> Architecture:
    norms = "ain" if "conv2.0.conv2.0.layers.0.conv1.weight" in tensors else "batch"
    norms = "ibn" if norms == "batch" and "conv2.0.IN.weight" in tensors else norms
    stem = tensors["conv1.conv.weight"].shape[:1]
    found = [name for name, plan in OSNETS.items() if plan.norms == norms and plan.channels[:1] == stem]
    if not found:
        raise UserError(
            f"{path} is an OSNet ({norms}) with a stem of {stem}, which is not in torchreid's zoo."
        )
    names = osnet_names(found[0]) | head_names("fc512")
    return _encoder(f"{found[0]} of torchreid", {"backbone": found[0], "head": "fc512"}, names, tensors, path)


def _encoder(
    title: str, form: dict[str, Any], names: Names, tensors: Tensors, path: str | Path
) -> Architecture:
    """The architecture with the classifier's number of classes.

    Without a classifier the number is 1, and `assign` reports the missing parameters later.
    """
    classifier = f"{names['classifier']}.weight"
    shape = tensors[classifier].shape if classifier in tensors else (1,)
    if not shape or not 0 < shape[0] < 10**7:
        raise UserError(f"{path} has a classifier of shape {shape}.")
    return Architecture(title, form, names, shape[0])


def _backbone(tensors: Tensors, path: str | Path, prefix: str) -> str:
    def depth(stage: int) -> int:
        head = f"{prefix}layer{stage}."
        blocks = {name[len(head) :].split(".")[0] for name in tensors if name.startswith(head)}
        return len(blocks)

    depths = tuple(depth(stage) for stage in (1, 2, 3, 4))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    if not bottleneck or depths not in TORCHVISION_DEPTHS:
        raise UserError(
            f"{path} is a ResNet of {depths} blocks; only ResNet-50 (3, 4, 6, 3) and ResNet-101 "
            "(3, 4, 23, 3) can be converted."
        )
    ibn = f"{prefix}layer1.0.bn1.IN.weight" in tensors
    return TORCHVISION_DEPTHS[depths] + ("_ibn" if ibn else "")
