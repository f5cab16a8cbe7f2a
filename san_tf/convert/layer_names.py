"""Tables of layer names, Keras to PyTorch, one function per family of networks."""

from __future__ import annotations

from san_tf.models.osnet import BLOCKS, OSNETS, STREAMS, norm_at
from san_tf.models.resnet import DEPTHS

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
