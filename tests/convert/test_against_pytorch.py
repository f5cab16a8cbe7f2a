"""Converted networks give the outputs of the originals, on random weights, to 1e-4 of the largest value.

Needs PyTorch (the extra `convert-test`). torchreid and fast-reid are compared with their own source, in the
folders that SAN_TF_TORCHREID and SAN_TF_FASTREID name (checkouts of KaiyangZhou/deep-person-reid and
JDAI-CV/fast-reid); without these variables those comparisons are skipped.
"""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="comparisons with PyTorch need the extra convert-test")

from torch_models import SANDecoder, TorchvisionResNet, from_source, randomise  # noqa: E402

from san_tf.convert.architectures import recognise  # noqa: E402
from san_tf.convert.converter import convert_checkpoint  # noqa: E402
from san_tf.convert.to_pytorch import convert_weights  # noqa: E402
from san_tf.models import build_encoder  # noqa: E402
from san_tf.models.presets import build_preset  # noqa: E402
from san_tf.torch_files.checkpoint import read_checkpoint  # noqa: E402
from san_tf.torch_files.state_dict import find_state_dict  # noqa: E402

TORCHREID, FASTREID = os.environ.get("SAN_TF_TORCHREID"), os.environ.get("SAN_TF_FASTREID")
needs_torchreid = pytest.mark.skipif(not TORCHREID, reason="SAN_TF_TORCHREID names no checkout")
needs_fastreid = pytest.mark.skipif(not FASTREID, reason="SAN_TF_FASTREID names no checkout")
TOLERANCE = 1e-4
IMAGES = np.random.default_rng(0).normal(size=(2, 256, 128, 3)).astype(np.float32)
OSNETS = [f"osnet_{width}" for width in ("x1_0", "x0_75", "x0_5", "x0_25")] + ["osnet_ibn_x1_0"]
AINS = [f"osnet_ain_{width}" for width in ("x1_0", "x0_75", "x0_5", "x0_25")]


def channels_first(array):
    return torch.tensor(np.ascontiguousarray(np.asarray(array).transpose(0, 3, 1, 2)))


def agreement(ours, theirs, record):
    """Largest difference relative to the largest value, over all named outputs."""
    worst = 0.0
    for name, value in theirs.items():
        value = value.detach().numpy()
        value = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        mine = np.asarray(ours[name])
        assert mine.shape == value.shape, name
        assert np.abs(value).max() > 1e-3 and np.isfinite(value).all(), name
        worst = max(worst, float(np.abs(mine - value).max() / np.abs(value).max()))
    record("largest_relative_difference", worst)
    print(f"largest relative difference {worst:.1e}")
    assert worst < TOLERANCE


def converted(model, tmp_path, legacy=False, wrapped=True):
    """Save as trainers do, convert, build from the file."""
    path, to = tmp_path / "model.pth.tar", tmp_path / "model.weights.h5"
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    value = {"state_dict": weights, "epoch": 60, "rank1": np.float64(0.5)} if wrapped else model.state_dict()
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    done = convert_checkpoint(path, to)
    parameters = [value for name, value in model.state_dict().items() if "num_batches" not in name]
    assert done.parameters == done.equal == len(parameters)
    assert done.numbers == sum(value.numel() for value in parameters)
    architecture = recognise(find_state_dict(read_checkpoint(path), path), path)
    return build_encoder(**architecture.encoder, num_classes=architecture.num_classes, weights=to)


def named(output):
    return {"embedding": output["embedding"], "logits": output["logits"]} | {
        f"stage{index}": stage for index, stage in enumerate(output["stages"], start=1)
    }


@pytest.mark.parametrize(("name", "depths"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
def test_torchvision(name, depths, tmp_path, record_property):
    model = randomise(TorchvisionResNet(depths))
    encoder = converted(model, tmp_path, legacy=name == "resnet101", wrapped=False)
    assert encoder.name == f"encoder_{name}"
    with torch.no_grad():
        feature, logits, stages = model(channels_first(IMAGES))
    theirs = named({"embedding": feature, "logits": logits, "stages": stages})
    agreement(named(encoder(IMAGES, training=False)), theirs, record_property)


@needs_torchreid
@pytest.mark.parametrize("name", ["resnet50", "resnet50_fc512", *OSNETS, *AINS])
def test_torchreid(name, tmp_path, record_property):
    file = "resnet" if name.startswith("resnet") else "osnet_ain" if "ain" in name else "osnet"
    module = from_source(TORCHREID, f"torchreid/models/{file}.py")
    model = randomise(getattr(module, name)(num_classes=751, pretrained=False))
    encoder = converted(model, tmp_path)
    with torch.no_grad():
        images = channels_first(IMAGES)
        feature = model(images)
        theirs = {
            "embedding": feature,
            "logits": model.classifier(feature),
            "stage4": model.featuremaps(images),
        }
    agreement(named(encoder(IMAGES, training=False)), theirs, record_property)


@needs_fastreid
def test_fastreid(tmp_path, record_property, monkeypatch):
    monkeypatch.setattr(sys, "path", [FASTREID, *sys.path])
    config = importlib.import_module("fastreid.config").get_cfg()
    config.merge_from_file(os.path.join(FASTREID, "configs/Market1501/bagtricks_R50.yml"))
    config.MODEL.BACKBONE.PRETRAIN, config.MODEL.DEVICE, config.MODEL.HEADS.NUM_CLASSES = False, "cpu", 751
    model = randomise(importlib.import_module("fastreid.modeling").build_model(config))
    encoder = converted(model, tmp_path)
    # fast-reid normalises pixels of 0-255 itself, in place.
    pixels = channels_first(np.random.default_rng(1).integers(0, 256, IMAGES.shape).astype(np.float32))
    normalised = (pixels - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        embedding = model(pixels.clone())
        stage4 = model.backbone(normalised)
        logits = torch.nn.functional.linear(embedding, model.heads.weight)
        pooled = model.heads.pool_layer(stage4)[..., 0, 0]
    theirs = {"embedding": embedding, "logits": logits, "stage4": stage4, "feature": pooled}
    output = encoder(normalised.numpy().transpose(0, 2, 3, 1), training=False)
    agreement(named(output) | {"feature": output["feature"]}, theirs, record_property)


def test_public_decoder_forth_and_back(tmp_path, record_property):
    model = randomise(SANDecoder())
    checkpoint, weights, back = (tmp_path / name for name in ("san.pth", "d.weights.h5", "d.safetensors"))
    torch.save({"decoder_state_dict": model.state_dict(), "epoch": 1}, checkpoint)
    convert_checkpoint(checkpoint, weights)
    decoder = build_preset("san_resnet50_official", 7, weights=None)[1]
    decoder.load_weights(weights)
    rng = np.random.default_rng(2)
    shapes = [(64, 32, 256), (32, 16, 512), (16, 8, 1024), (16, 8, 2048)]
    stages = [rng.uniform(0, 1, (1, *shape)).astype(np.float32) for shape in shapes]
    with torch.no_grad():
        texture, blocks = model([channels_first(stage) for stage in stages])
    ours = decoder(stages, training=False)
    theirs = {f"up{i}": block for i, block in enumerate(blocks, 1)} | {"texture": texture}
    mine = {f"up{i}": block for i, block in enumerate(ours["blocks"], 1)} | {"texture": ours["texture"]}
    agreement(mine, theirs, record_property)

    convert_weights(weights, back)
    fresh = SANDecoder()
    fresh.load_state_dict(load_safetensors(back), strict=True)
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(fresh.state_dict()[name], value), name


@needs_torchreid
def test_public_encoder_goes_back(tmp_path):
    module = from_source(TORCHREID, "torchreid/models/resnet.py")
    model = randomise(module.resnet50_fc512(num_classes=751, pretrained=False))
    converted(model, tmp_path)
    convert_weights(tmp_path / "model.weights.h5", tmp_path / "back.safetensors")
    fresh = module.resnet50_fc512(num_classes=751, pretrained=False).eval()
    fresh.load_state_dict(load_safetensors(tmp_path / "back.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh(channels_first(IMAGES)), model(channels_first(IMAGES)))


def load_safetensors(path):
    return importlib.import_module("safetensors.torch").load_file(path)
